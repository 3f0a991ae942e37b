"""The files in cluster/: schemas, pins and security; the Slurm script with stand-ins for Slurm."""

import copy
import json
import os
import re
import shutil
import stat
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import REPO

CLUSTER = REPO / "cluster"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
RAY_ON_KUBERNETES = ("raycluster.yaml", "rayjob.yaml")
LAUNCHER = ("onprem.yaml", "aws.yaml")

# What the engine exports through ray.util.metrics; each has the label `experiment`. Ray puts "ray_"
# before each name.
METRICS = {
    "ray_raybd_cells_done",
    "ray_raybd_cells_failed",
    "ray_raybd_cells_running",
    "ray_raybd_stages_waiting",
    "ray_raybd_gpu_seconds",
}

Change = Callable[[Any], None]


def _documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def _document(name: str) -> Any:
    return _documents(name)[0]


def _walk(value: Any) -> Iterator[Any]:
    """A value and all that is in it."""
    yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from _walk(inner)


# --- versions ---


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    return project


def _wanted(*extras: str) -> dict[str, Requirement]:
    project = _project()
    lines = project["dependencies"] + [
        line for extra in extras for line in project["optional-dependencies"][extra]
    ]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def _pins() -> dict[str, str]:
    lines = [
        line
        for line in (CLUSTER / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    return {canonicalize_name(name.split("[")[0]): version for name, version in pins.items()}


def _ray() -> str:
    """The Ray of all files: the lower bound in pyproject.toml."""
    lowest = next(spec.version for spec in _wanted()["ray"].specifier if spec.operator == ">=")
    return ".".join([*lowest.split("."), "0"][:3])


def test_the_image_pins_every_dependency_to_a_version_that_the_project_allows() -> None:
    pins, wanted = _pins(), _wanted("report", "s3", "timm")
    assert not wanted.keys() - pins.keys()
    assert {
        name: pins[name] for name, one in wanted.items() if not one.specifier.contains(pins[name])
    } == {}


def test_one_version_of_ray_stands_in_all_files() -> None:
    assert _pins()["ray"] == _ray()
    assert _document("raycluster.yaml")["spec"]["rayVersion"] == _ray()
    assert _document("rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == _ray()
    for path in FILES:
        for tag in re.findall(r"registry\.example\.com/raybd:(\S+)", path.read_text()):
            assert tag == f"{_project()['version']}-ray{_ray()}", path.name


def test_what_the_head_on_ec2_adds_fits_the_image() -> None:
    added = re.findall(r"boto3==(\S+)", "\n".join(_document("aws.yaml")["head_setup_commands"]))
    assert added == [_pins()["botocore"]], "boto3 and botocore are released together"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_image_floats(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r":latest\b", text)
    for image in re.findall(r"^\s*(?:- )?image:\s*(\S+)", text, re.MULTILINE):
        assert re.search(r":[\w.-]*\d", image), f"{image} has no version"


# --- Dockerfile ---


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (CLUSTER / "Dockerfile").read_text())
    return [
        (word, rest)
        for word, _, rest in (
            line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")
        )
    ]


def test_the_image_stands_on_pinned_cuda_and_python() -> None:
    bases = [rest.split()[0] for word, rest in _instructions() if word == "FROM"]
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.\d\d", bases[-1])
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    runs = " && ".join(rest for word, rest in _instructions() if word == "RUN")
    assert re.search(r"--python 3\.11\.\d+", runs), "Python is pinned to the patch"
    installs = re.findall(r"pip install[^&]*", runs)
    assert len(installs) == 2
    assert all(
        "--requirements cluster/requirements.txt" in one or "--no-deps" in one for one in installs
    ), "nothing unpinned"


def test_the_image_does_not_run_as_root() -> None:
    users = [rest for word, rest in _instructions() if word == "USER"]
    assert users == ["ray"]
    made = next(rest for word, rest in _instructions() if word == "RUN" and "useradd" in rest)
    assert "--uid 1000" in made, "the user that the Kubernetes files name"
    assert "sudo" not in (CLUSTER / "Dockerfile").read_text()


def test_all_that_the_image_copies_exists() -> None:
    for word, rest in _instructions():
        parts = [part for part in rest.split() if not part.startswith("--")]
        if word == "COPY" and "--from" not in rest:
            assert [part for part in parts[:-1] if not (REPO / part).exists()] == []


# --- Ray's cluster launcher ---


def _validate_launcher(config: dict[str, Any]) -> None:
    launcher = pytest.importorskip(
        "ray.autoscaler._private.util", reason="Ray moved its cluster schema"
    )
    launcher.validate_config(launcher.prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launcher_accepts(name: str) -> None:
    _validate_launcher(_document(name))


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(max_worker=4),
        lambda config: config.update(idle_timeout_minutes="ten"),
        lambda config: config["auth"].update(ssh_usr="ray"),
        lambda config: config.update(setup_commands=[["chmod", "600"]]),
        lambda config: config.pop("cluster_name") and config.update(cluster_name=7),
    ],
    ids=[
        "unknown field",
        "wrong type",
        "unknown field inside",
        "list for a command",
        "number for a name",
    ],
)
def test_the_launcher_refuses(name: str, change: Change) -> None:
    from jsonschema import ValidationError

    config = _document(name)
    change(config)
    with pytest.raises(ValidationError):
        _validate_launcher(config)


@pytest.fixture(scope="module")
def ec2_problems() -> Callable[[dict[str, Any]], str]:
    """What EC2's own description of RunInstances has against a node_config."""
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    return lambda config: str(
        ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **config}, shape).generate_report()
    )


def test_ec2_knows_every_parameter_of_the_machines(
    ec2_problems: Callable[[dict[str, Any]], str],
) -> None:
    for kind, node in _document("aws.yaml")["available_node_types"].items():
        assert ec2_problems(node["node_config"]) == "", kind
        assert "InstanceTyp" in ec2_problems({**node["node_config"], "InstanceTyp": "g6.xlarge"})
        assert "MetadataOptions" in ec2_problems(
            {**node["node_config"], "MetadataOptions": "required"}
        )


def test_ec2_machines_are_closed_and_encrypted() -> None:
    for node in _document("aws.yaml")["available_node_types"].values():
        machine = node["node_config"]
        assert machine["SecurityGroupIds"], "else Ray opens ssh to everyone"
        assert machine["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])


def test_gpu_workers_on_ec2_come_and_go() -> None:
    config = _document("aws.yaml")
    worker = config["available_node_types"]["gpu"]
    assert worker["min_workers"] == 0 < worker["max_workers"] <= config["max_workers"]
    assert worker["resources"]["GPU"] >= 1
    assert config["idle_timeout_minutes"] > 0
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_own_machines_all_join() -> None:
    config = _document("onprem.yaml")
    assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])
    assert config["auth"]["ssh_user"] != "root"


@pytest.mark.parametrize("name", LAUNCHER)
def test_a_launched_cluster_asks_for_the_token_and_listens_on_loopback(name: str) -> None:
    config = _document(name)
    head, worker = (" ".join(config[f"{role}_start_ray_commands"]) for role in ("head", "worker"))
    everywhere = " ".join(config.get("docker", {}).get("run_options", []))
    for commands in (head, worker):
        for variable in ("RAY_AUTH_MODE=token", "RAYBD_STORE=", "RAYBD_DATA="):
            assert variable in commands + everywhere
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=0" in head
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


# --- Kubernetes ---


def _strict(schema: Any) -> Any:
    """A Kubernetes schema as a JSON schema in which unknown fields are errors."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        strict.setdefault("additionalProperties", False)
    return strict


@pytest.fixture(scope="module")
def kuberay(data_root: Path) -> dict[str, Any]:
    """KubeRay's schemas by kind."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schemas = {}
    for kind in ("RayCluster", "RayJob"):
        path = data_root / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
        if not path.exists():
            pytest.skip(f"no schema of KubeRay's {kind}: put its CRD at {path}")
        crd = yaml.load(path.read_text(), loader)
        version = next(one for one in crd["spec"]["versions"] if one["name"] == "v1")
        schema = _strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[kind] = schema
    return schemas


def _cluster_of(document: Any) -> Any:
    """The spec of the Ray cluster in a RayCluster or a RayJob."""
    return document["spec"].get("rayClusterSpec", document["spec"])


@pytest.mark.parametrize("name", RAY_ON_KUBERNETES)
def test_kuberay_accepts(name: str, kuberay: dict[str, Any]) -> None:
    import jsonschema

    document = _document(name)
    assert document["apiVersion"] == "ray.io/v1"
    jsonschema.Draft7Validator(kuberay[document["kind"]]).validate(document)


@pytest.mark.parametrize("name", RAY_ON_KUBERNETES)
@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(rayVersions="2.60.0"),
        lambda spec: spec["authOptions"].update(mode="tokens"),
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda spec: spec["workerGroupSpecs"][0].update(minReplica=0),
        lambda spec: spec["workerGroupSpecs"][0].update(minReplicas="0"),
        lambda spec: spec["workerGroupSpecs"][0].pop("groupName"),
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(
            resource={}
        ),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["securityContext"].update(
            runAsNonRoot="yes"
        ),
    ],
    ids=[
        "unknown",
        "not a mode",
        "number for text",
        "unknown in a list",
        "text for a number",
        "missing",
        "in a container",
        "in a pod",
    ],
)
def test_kuberay_refuses(name: str, change: Change, kuberay: dict[str, Any]) -> None:
    import jsonschema

    document = copy.deepcopy(_document(name))
    change(_cluster_of(document))
    assert not jsonschema.Draft7Validator(kuberay[document["kind"]]).is_valid(document)


def test_the_job_runs_on_the_same_cluster_but_for_the_dashboard() -> None:
    alone, job = (
        _document("raycluster.yaml")["spec"],
        copy.deepcopy(_document("rayjob.yaml"))["spec"]["rayClusterSpec"],
    )
    assert alone["headGroupSpec"]["rayStartParams"] == {
        "num-cpus": "0",
        "dashboard-host": "127.0.0.1",
    }
    job["headGroupSpec"]["rayStartParams"]["dashboard-host"] = "127.0.0.1"
    assert job == alone


def test_the_job_waits_for_a_worker_and_runs_an_experiment_of_the_image() -> None:
    spec = _document("rayjob.yaml")["spec"]
    assert spec["entrypointNumCpus"] == 1, "the head has none: the run would find no resources"
    config = re.fullmatch(r"python -m raybd run /home/ray/raybd/(\S+)", spec["entrypoint"])
    assert config and (REPO / config[1]).is_file()


@pytest.mark.parametrize("name", RAY_ON_KUBERNETES)
def test_ray_on_kubernetes_asks_for_a_token_that_is_not_in_the_file(name: str) -> None:
    spec = _cluster_of(_document(name))
    assert spec["authOptions"] == {"mode": "token", "secretName": "raybd-token"}
    assert (
        "secret generic raybd-token --from-file=auth_token=" in (CLUSTER / "README.md").read_text()
    )


def _pods(name: str) -> dict[str, Any]:
    """The pod templates of a file, by component."""
    found = [
        one
        for one in _walk(_document(name))
        if isinstance(one, dict) and "containers" in one.get("spec", {})
    ]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in found}


@pytest.mark.parametrize("name", RAY_ON_KUBERNETES)
def test_pods_have_no_root_and_bounded_resources(name: str) -> None:
    pods = _pods(name)
    assert pods.keys() == {"head", "worker"} | ({"submitter"} if name == "rayjob.yaml" else set())
    containers = [container for pod in pods.values() for container in pod["spec"]["containers"]]
    for pod in pods.values():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] == 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*containers, _cluster_of(_document(name))["autoscalerOptions"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys() & container[
            "resources"
        ]["limits"].keys()


@pytest.mark.parametrize("name", RAY_ON_KUBERNETES)
def test_gpu_workers_on_kubernetes_come_and_go(name: str) -> None:
    spec = _cluster_of(_document(name))
    assert spec["enableInTreeAutoscaling"] is True
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", RAY_ON_KUBERNETES)
def test_head_and_workers_share_store_and_data(name: str) -> None:
    pods = _pods(name)
    head, worker = (pods[role]["spec"] for role in ("head", "worker"))
    assert head["volumes"] == worker["volumes"]
    claimed = {one["name"] for one in head["volumes"] if "persistentVolumeClaim" in one}
    for pod in (head, worker):
        (container,) = pod["containers"]
        mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        environment = {one["name"]: one["value"] for one in container["env"]}
        assert environment.keys() == {"RAYBD_STORE", "RAYBD_DATA"}
        for path in environment.values():
            assert any(
                Path(path).is_relative_to(mount) and mounts[mount] in claimed for mount in mounts
            )
        assert "/dev/shm" in mounts, "Ray's object store wants shared memory"


def test_the_rules_of_the_network_policy_are_well_formed(kuberay: dict[str, Any]) -> None:
    import jsonschema

    types = kuberay["RayCluster"]["properties"]["spec"]["properties"]["networkPolicy"][
        "properties"
    ]["head"]["properties"]
    for policy in _documents("networkpolicy.yaml"):
        for rules, schema in (("ingress", "ingressRules"), ("egress", "egressRules")):
            rule = jsonschema.Draft7Validator(types[schema])
            rule.validate(policy["spec"].get(rules, []))
            assert not rule.is_valid([{"form": []}])


def test_the_network_policy_covers_every_pod_and_opens_only_named_ports() -> None:
    policies = _documents("networkpolicy.yaml")
    assert {(policy["apiVersion"], policy["kind"]) for policy in policies} == {
        ("networking.k8s.io/v1", "NetworkPolicy")
    }
    every, operator = (policy["spec"] for policy in policies)
    assert every["policyTypes"] == ["Ingress", "Egress"]
    label = every["podSelector"]["matchLabels"]
    for name in RAY_ON_KUBERNETES:
        for component, pod in _pods(name).items():
            assert label.items() <= pod["metadata"]["labels"].items(), (name, component)
    assert all(rule.get("from") for rule in every["ingress"] + operator["ingress"]), (
        "an empty rule admits everyone"
    )
    strangers = [
        rule
        for rule in every["ingress"] + operator["ingress"]
        if rule["from"] != [{"podSelector": every["podSelector"]}]
    ]
    assert {port["port"] for rule in strangers for port in rule["ports"]} == {8080, 8265}
    assert all("namespaceSelector" in peer for rule in strangers for peer in rule["from"])
    dashboard = next(
        rule for rule in strangers if rule["ports"] == [{"protocol": "TCP", "port": 8265}]
    )
    assert dashboard["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "kuberay-system"
    }
    assert all(rule.get("ports") or "podSelector" in rule["to"][0] for rule in every["egress"])


# --- secrets ---

_SECRETS = [
    r"\bA(?:KIA|SIA)[A-Z0-9]{16}\b",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"\bgh[pousr]_\w{20,}|\bhf_\w{20,}|\bxox[abp]-\w{10,}",
    r"RAY_AUTH_TOKEN\s*[=:]",
    r"(?i)(?:password|passwd|secret_?(?:access_?)?key|api_?key|auth_?token)[\"']?\s*[:=]\s*[\"']?[\w+/-]{12,}",
    r"\b[0-9a-f]{32,}\b",
    r"\bkind:\s*Secret\b",
]


def _secrets(text: str) -> list[str]:
    return [found[0] for pattern in _SECRETS for found in re.finditer(pattern, text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secret_is_in(path: Path) -> None:
    assert _secrets(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "AK" + "IA" + "A1B2" * 4,
        "-----BEGIN OPENSSH PRIVATE " + "KEY-----",
        "export RAY_AUTH_TOKEN" + "=x",
        "auth_token: " + "c2VjcmV0LXRva2Vu",
        "password" + '="correct-horse-battery"',
        "0f" * 32,
        "kind: " + "Secret",
    ],
)
def test_a_planted_secret_is_found(planted: str) -> None:
    assert _secrets(f"# a comment\n  {planted}\n")


# --- Slurm ---

_SLURM = {
    "scontrol": 'echo "scontrol $*" >> "$LOG"; printf "%s\\n" $NODES',
    "srun": """
        n=1; for a in "$@"; do case $a in --ntasks=*) n=${a#*=} ;; esac; done
        echo "srun $*" >> "$LOG"
        while [ "${1#--}" != "$1" ]; do shift; done
        trap 'kill $(jobs -p) 2> /dev/null; exit' TERM
        for _ in $(seq "$n"); do "$@" & echo $! >> "$PIDS"; done
        wait
    """,
    "ray": """
        case $1 in
          start) echo "ray $* mode=$RAY_AUTH_MODE token=$RAY_AUTH_TOKEN_PATH" >> "$LOG"
                 case " $* " in *" --head "*) ;; *) [ -z "${LOST:-}" ] || exec sleep 20 ;; esac
                 echo " 1 node_$$" >> "$JOINED"; exec sleep 20 ;;
          status) echo "Active:"; cat "$JOINED" ;;
          get-auth-token) mkdir -p ~/.ray; echo the-token | tee ~/.ray/auth_token ;;
        esac
    """,
    "raybd": 'echo "raybd $* joined=$(wc -l < "$JOINED")" >> "$LOG"; exit "${RUN_EXITS:-0}"',
    "python": "echo 10.1.2.3",
}


def _run_slurm(
    folder: Path, *arguments: str, machines: str = "n1 n2 n3", **environment: str
) -> tuple[int, list[str], str]:
    """Run slurm.sh as Slurm would; exit code, what was called in which order, what it printed."""
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, body in _SLURM.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (commands / name).chmod(0o755)
    (commands / "activate").write_text(f"export PATH={commands}:$PATH\n")
    log, joined, pids = (folder / name for name in ("log", "joined", "pids"))
    for path in (log, joined, pids):
        path.touch()
    given = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(folder),
        "NODES": machines,
        "LOG": str(log),
        "JOINED": str(joined),
        "PIDS": str(pids),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "n[1-3]",
        "RAYBD_STORE": "/shared/results",
        "RAYBD_JOIN_SECONDS": "0.05",
        **environment,
    }
    printed = folder / "printed"  # a file: a pipe would wait for whatever the script leaves behind
    with printed.open("w") as out:
        command = ["bash", str(CLUSTER / "slurm.sh"), *arguments]
        done = subprocess.run(command, env=given, stdout=out, stderr=out, timeout=30, check=False)
    return done.returncode, log.read_text().splitlines(), printed.read_text()


def test_slurm_starts_the_head_then_the_workers_then_one_run(tmp_path: Path) -> None:
    code, calls, printed = _run_slurm(tmp_path, "configs/quickstart.yaml", "--set", "seeds=[1]")
    assert code == 0, printed
    names = [" ".join(call.split()[:2]) for call in calls]
    assert [name.split()[0] for name in names] == [
        "scontrol",
        "srun",
        "ray",
        "srun",
        "ray",
        "ray",
        "raybd",
    ]
    head, workers = calls[1], calls[3]
    assert (
        "--nodelist=n1 " in head
        and "ray start --head --block --node-ip-address=10.1.2.3 --port=6379" in head
    )
    assert "--dashboard-host=127.0.0.1" in head
    assert (
        "--nodes=2 --ntasks=2 " in workers
        and "--exclude=n1 ray start --block --address=10.1.2.3:6379" in workers
    )
    assert calls[-1] == (
        "raybd run configs/quickstart.yaml --store /shared/results --address 10.1.2.3:6379 "
        "--set seeds=[1] joined=3"
    )


def test_slurm_keeps_the_token_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    _, calls, printed = _run_slurm(tmp_path, "configs/quickstart.yaml")
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    starts = [call for call in calls if call.startswith("ray start")]
    assert len(starts) == 3
    assert all(f"mode=token token={token}" in call for call in starts)
    assert "the-token" not in "\n".join([*calls, printed])


def test_slurm_keeps_a_token_that_is_there(tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("mine")
    _run_slurm(tmp_path, "configs/quickstart.yaml")
    assert token.read_text() == "mine"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_slurm_ends_with_the_runs_exit_code_and_leaves_nothing_running(tmp_path: Path) -> None:
    code, _, _ = _run_slurm(tmp_path, "configs/quickstart.yaml", RUN_EXITS="1")
    assert code == 1
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert _gone(pids)


def _running(pid: int) -> bool:
    """Whether a process runs; one that has ended, and that nobody has asked about yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _gone(pids: list[int]) -> bool:
    for _ in range(100):
        if not any(_running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_slurm_on_one_machine_starts_no_workers(tmp_path: Path) -> None:
    code, calls, _ = _run_slurm(tmp_path, "configs/quickstart.yaml", machines="n1")
    assert code == 0
    assert sum(call.startswith("srun") for call in calls) == 1


def test_slurm_runs_nothing_when_a_machine_does_not_join(tmp_path: Path) -> None:
    code, calls, printed = _run_slurm(
        tmp_path, "configs/quickstart.yaml", LOST="1", RAYBD_JOIN_TRIES="3"
    )
    assert code == 3
    assert "only 1 of 3 machines joined" in printed
    assert not any(call.startswith("raybd") for call in calls)


@pytest.mark.parametrize(("store", "says"), [("results", "is relative"), ("", "set RAYBD_STORE")])
def test_slurm_refuses_a_store_that_the_machines_do_not_share(
    tmp_path: Path, store: str, says: str
) -> None:
    code, calls, printed = _run_slurm(tmp_path, "configs/quickstart.yaml", RAYBD_STORE=store)
    assert code != 0
    assert calls == []
    assert says in printed


def test_slurm_takes_object_storage(tmp_path: Path) -> None:
    code, calls, _ = _run_slurm(
        tmp_path, "configs/quickstart.yaml", RAYBD_STORE="s3://raybd-example/results"
    )
    assert code == 0
    assert "--store s3://raybd-example/results" in calls[-1]


def test_the_shell_reads_the_script() -> None:
    script = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert directives and not any(
        line and not line.startswith("#") for line in lines[: directives[-1]]
    ), "sbatch stops at a command"
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)


# --- Grafana ---


def _foreign_metrics(expression: str) -> set[str]:
    """Names of metrics in a PromQL expression that the engine doesn't export."""
    assert re.search(r"\{[^}]*\}", expression), f"{expression} doesn't choose an experiment"
    return set(re.findall(r"([A-Za-z_:][\w:]*)\s*\{", expression)) - METRICS


def test_every_panel_asks_for_metrics_of_the_engine() -> None:
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    used = set()
    assert (
        len({panel["id"] for panel in dashboard["panels"]})
        == len(dashboard["panels"])
        >= len(METRICS)
    )
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["targets"], panel["id"]
        for target in panel["targets"]:
            assert _foreign_metrics(target["expr"]) == set(), panel["title"]
            assert 'experiment=~"$experiment"' in target["expr"]
            used |= METRICS & set(re.findall(r"\w+", target["expr"]))
    assert used == METRICS
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "experiment"}
    assert (
        re.findall(r"label_values\((\w+), experiment\)", variables["experiment"]["query"]["query"])[
            0
        ]
        in METRICS
    )
    assert set(re.findall(r"ray_raybd_\w+", json.dumps(dashboard))) == METRICS


def test_a_misspelt_metric_is_found() -> None:
    assert _foreign_metrics('sum(ray_raybd_cells_dne{experiment="x"})') == {"ray_raybd_cells_dne"}


def test_panels_do_not_overlap() -> None:
    places = [
        panel["gridPos"] for panel in json.loads((CLUSTER / "grafana.json").read_text())["panels"]
    ]
    taken = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


# --- for the reader ---


def test_the_page_names_every_file_and_what_was_only_validated_offline() -> None:
    page = (CLUSTER / "README.md").read_text()
    tried = page.partition("## What was tried")[2]
    for path in FILES:
        if path.name != "README.md":
            assert f"`{path.name}`" in tried, path.name
    assert tried.count("only validated offline") >= 4
    assert "RAY_AUTH_MODE=token" in page


def test_the_commands_of_the_page_are_shell_and_name_files_that_exist() -> None:
    page = (CLUSTER / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        for path in re.findall(r"\b(?:cluster|configs)/[\w./]+", block):
            assert (REPO / path).exists(), path


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in FILES
        if path.suffix in {".yaml", ".sh", ".txt"} or path.name == "Dockerfile"
    ],
    ids=lambda path: path.name,
)
def test_the_first_lines_say_what_it_is_and_the_command(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#!")]
    assert lines[0].startswith("# ") and lines[1].startswith("# ")
    assert re.search(
        r"\b(ray up|kubectl|sbatch|docker build|uv pip compile) ", "\n".join(lines[:2])
    )


def test_names_of_this_workplace_are_in_no_file() -> None:
    for path in FILES:
        assert str(REPO) not in path.read_text()
