"""What another user of this machine gets of a run: run as a program, it becomes that user.

Reads JSON from stdin: {uid, token, ports, pids, files, folders}, and writes JSON to stdout. It
knows the token only to look for it, and to check that its calls would work with it.
"""

import http.client
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc

CALLS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "InternalKVGcsService/InternalKVKeys",
    "JobInfoGcsService/GetAllJobInfo",
    "ActorInfoGcsService/GetAllActorInfo",
    "NodeManagerService/GetNodeStats",
    "NodeManagerService/RequestWorkerLease",
    "NodeManagerService/ShutdownRaylet",
    "CoreWorkerService/GetCoreWorkerStats",
    "CoreWorkerService/PushTask",
    "CoreWorkerService/Exit",
)
"""Of the services that run code, end processes, or tell what runs; a harmless one is the first."""
PATHS = ("/get_or_create_runtime_env", "/api/jobs/", "/api/job_agent/jobs/")
"""Of the HTTP servers: they install packages and start commands."""
LISTENS = "0A"
"""State of a socket in /proc/net/tcp."""
SECONDS = 5.0
UNUSED_PORT = 9


def main() -> None:
    asked = json.load(sys.stdin)
    # Libraries may lie where only the first user can read: they are loaded before.
    grpc_codes(UNUSED_PORT, bearer(""))
    http_codes(UNUSED_PORT)
    os.setgroups([])
    os.setgid(asked["uid"])
    os.setuid(asked["uid"])
    commands = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in asked["pids"])
    environments = [f"/proc/{pid}/environ" for pid in asked["pids"]]
    found = {
        "uid": os.getuid(),
        "read": [path for path in [*asked["files"], *environments] if opens(path)],
        "entered": [folder for folder in asked["folders"] if enters(folder)],
        "token in a command": asked["token"].encode() in commands,
        "listening": listening(asked["ports"]),
        "abstract sockets": [
            line.split()[-1]
            for line in Path("/proc/net/unix").read_text().splitlines()
            if "@" in line and ("ray" in line or "plasma" in line)
        ],
        "without": {port: grpc_codes(port, ()) for port in asked["ports"]},
        "wrong": {port: grpc_codes(port, bearer("0" * 64)) for port in asked["ports"]},
        "http": {port: http_codes(port) for port in asked["ports"]},
        # The first call only: it asks what there is.
        "right": {port: grpc_codes(port, bearer(asked["token"]), 1) for port in asked["ports"]},
    }
    sys.stdout.write(json.dumps(found))


def opens(path: str) -> bool:
    try:
        return bool(Path(path).open("rb").read(1))
    except OSError:
        return False


def enters(folder: str) -> bool:
    try:
        list(Path(folder).iterdir())
    except OSError:
        return False
    return True


def listening(ports: Iterable[int]) -> list[tuple[str, int]]:
    """Address, as the system writes it, and port of the sockets that listen."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == LISTENS and int(port, 16) in ports:
                found.append((address, int(port, 16)))
    return found


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def grpc_codes(port: int, metadata: Any, count: int = len(CALLS)) -> dict[str, str]:
    """What the services of a port answer."""
    codes = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for call in CALLS[:count]:
            try:
                channel.unary_unary(f"/ray.rpc.{call}")(b"", timeout=SECONDS, metadata=metadata)
                codes[call] = "OK"
            except grpc.RpcError as error:
                codes[call] = error.code().name
            if codes[call] in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                break  # it speaks another language
    return codes


def http_codes(port: int) -> dict[str, int]:
    codes = {}
    for path in PATHS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
            codes[path] = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            break
        finally:
            connection.close()
    return codes


if __name__ == "__main__":
    main()
