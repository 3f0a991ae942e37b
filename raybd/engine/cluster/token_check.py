"""Whether a cluster takes our token, asked once.

Ray itself asks again for ten seconds, with a warning each second, before it gives up.
"""

import os

import grpc

from raybd.engine.cluster.doors import exists, token_path
from raybd.types.errors import UserError

ASK_SECONDS = 5.0
"""How long the answer may take; without one, Ray's own connection says what is wrong."""
CALL = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
"""A harmless question to the head."""


def check_token(address: str) -> None:
    """Raise UserError (exit code 3) if the head at HOST:PORT refuses our token, or the lack of one.

    Whatever else may be wrong is left to the connection that follows.
    """
    if os.environ.get("RAY_USE_TLS") == "1":
        return  # the question would need Ray's certificates
    token = _token()
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        with grpc.insecure_channel(address) as channel:
            channel.unary_unary(CALL)(b"", timeout=ASK_SECONDS, metadata=metadata)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise _refused(address, bool(token)) from error


def _token() -> str | None:
    """Return the token that Ray's client would send."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if named := os.environ.get("RAY_AUTH_TOKEN"):
        return named
    path = token_path()
    try:
        return path.read_text().strip() if path is not None and exists(path) else None
    except (OSError, UnicodeDecodeError):
        return None


def _refused(address: str, sent: bool) -> UserError:
    what = "refuses our token" if sent else "asks for a token, and none was sent"
    return UserError(
        f"the Ray cluster at {address} {what}",
        "Copy the head's ~/.ray/auth_token to a file here, and set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH=FILE.",
        exit_code=3,
    )
