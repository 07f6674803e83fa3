"""The files that bring up a cluster: what Ray, the clouds and KubeRay demand of them, and what our config does.

Nothing here reaches a network: Ray's own validation of `ray up` files, a strict schema for KubeRay's, and the
placement that a run checks before it starts, on the machines that each file starts with.
"""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: TID251 Ray's own rules
from ray.job_submission import JobStatus  # noqa: TID251 what the hook's fake answers

from cluster.stop_jobs import WAIT_S, stop_jobs
from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.runtime.cluster.resources import Node, place, roles
from tests.helpers.kuberay import SCHEMAS

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
RAY_UP = ["aws.yaml", "gcp.yaml", "on_premise.yaml"]
SPOT_ROLES = {"teacher", "evaluator", "synthesis"}
"""Losing one of these costs a block or a few cases (docs/explanation/faults.md)."""


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTER / name).read_text()))


def is_spot(node: dict[str, Any]) -> bool:
    """Whether a cloud may take a machine of this node_config away."""
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or any(entry.get("preemptible") for entry in node.get("scheduling", []))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(str(ROOT / "configs" / "cluster.yaml"), [])


# -- ray up ----------------------------------------------------------------------------------------------------------


def aws_faults(config: dict[str, Any]) -> list[str]:
    """What EC2 needs and Ray's schema does not look at."""
    found = [] if config["provider"].get("region") else ["no region"]
    if config["provider"].get("cache_stopped_nodes") is not False:
        found.append("spot machines cannot be stopped")
    if "security_group" in config["provider"]:
        found.append("Ray adds SSH from everywhere to a group that it makes")
    for name, group in config["available_node_types"].items():
        node = group["node_config"]
        found += [
            f"{name}: no {key}"
            for key in ("InstanceType", "ImageId", "SecurityGroupIds", "IamInstanceProfile", "BlockDeviceMappings")
            if not node.get(key)
        ]
        if node.get("MetadataOptions") != {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}:
            found.append(f"{name}: the role's credentials are given to any request")
        if not all(disk["Ebs"].get("Encrypted") is True for disk in node.get("BlockDeviceMappings", [])):
            found.append(f"{name}: a disk is not encrypted")
    return found


def gcp_faults(config: dict[str, Any]) -> list[str]:
    """What Compute Engine needs and Ray's schema does not look at."""
    found = [f"no {key}" for key in ("region", "availability_zone", "project_id") if not config["provider"].get(key)]
    for name, group in config["available_node_types"].items():
        node = group["node_config"]
        boot = [disk for disk in node.get("disks", []) if disk.get("boot")]
        if not node.get("machineType") or not boot or not boot[0]["initializeParams"].get("sourceImage"):
            found.append(f"{name}: no machineType or boot disk")
        ends = any(entry.get("onHostMaintenance") == "TERMINATE" for entry in node.get("scheduling", []))
        if group["resources"].get("GPU") and not ends:
            found.append(f"{name}: a machine with a GPU cannot be migrated")
        if not {"enableVtpm", "enableIntegrityMonitoring"} <= set(node.get("shieldedInstanceConfig") or {}):
            found.append(f"{name}: a changed firmware or kernel would not show")
        if "CPU" not in group["resources"]:
            found.append(f"{name}: Ray does not know this cloud's machines: name their resources")
    return found


def local_faults(config: dict[str, Any]) -> list[str]:
    """What Ray's provider for machines of one's own needs."""
    addresses = [config["provider"]["head_ip"], *config["provider"]["worker_ips"]]
    return [] if len(set(addresses)) == len(addresses) > 1 else ["a machine is named twice, or there is no worker"]


FAULTS = {"aws": aws_faults, "gcp": gcp_faults, "local": local_faults}


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_pass_rays_validation_and_their_providers(name: str) -> None:
    prepared = prepare_config(read(name))
    validate_config(prepared)
    assert FAULTS[prepared["provider"]["type"]](read(name)) == []
    commands = [c for key in ("setup_commands", "head_setup_commands", "worker_setup_commands") for c in prepared[key]]
    # Ray's defaults install a nightly wheel of its own and publish the dashboard: ours must stand in their place
    assert not [command for command in commands if "ray-wheels" in command or "pip install -U" in command]
    assert sum("ray start --head" in command for command in prepared["head_start_ray_commands"]) == 1
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in prepared["head_start_ray_commands"][-1]


def test_the_checks_of_ray_up_files_find_what_they_look_for() -> None:
    for change in ({"max_wrokers": 3}, {"head_node_type": "haed"}, {"max_workers": 1}):
        with pytest.raises((jsonschema.ValidationError, ValueError)):
            validate_config(prepare_config({**read("aws.yaml"), **change}))
    aws, gcp, local = read("aws.yaml"), read("gcp.yaml"), read("on_premise.yaml")
    del aws["provider"]["cache_stopped_nodes"], aws["available_node_types"]["head"]["node_config"]["ImageId"]
    aws["provider"]["security_group"] = {"GroupName": "x"}
    assert len(aws_faults(aws)) == 3
    aws["available_node_types"]["student"]["node_config"]["MetadataOptions"] = {"HttpTokens": "optional"}
    aws["available_node_types"]["synthesis"]["node_config"]["BlockDeviceMappings"] = [{"Ebs": {"VolumeSize": 1}}]
    assert len(aws_faults(aws)) == 5
    gcp["provider"]["project_id"] = None
    gcp["available_node_types"]["student"]["node_config"].pop("scheduling")
    gcp["available_node_types"]["student"]["resources"].pop("CPU")
    gcp["available_node_types"]["head"]["node_config"].pop("shieldedInstanceConfig")
    assert len(gcp_faults(gcp)) == 4
    local["provider"]["worker_ips"].append(local["provider"]["head_ip"])
    assert local_faults(local)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_only_what_may_be_lost_is_on_spot_machines(name: str) -> None:
    types = read(name)["available_node_types"]
    assert {key for key, group in types.items() if is_spot(group["node_config"])} == SPOT_ROLES
    assert set(types) - SPOT_ROLES == {"head", "student"}


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_autoscaler_of_ray_up_has_one_answer_to_each_demand(name: str) -> None:
    """It does not look at labels: of the groups that may grow, one must have GPUs and one must have none."""
    types = read(name)["available_node_types"].values()
    growing = [group for group in types if group.get("max_workers", 0) > group.get("min_workers", 0)]
    assert sorted(group["resources"].get("GPU", 0) for group in growing) == [0, 1]


def test_ray_starts_what_the_aws_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own launcher and node provider, against moto's EC2 in this process."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto")
    from ray.autoscaler._private.aws.config import bootstrap_aws  # noqa: TID251
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider  # noqa: TID251

    (tmp_path / ".ssh").mkdir()  # Ray makes a key pair
    for name, value in {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake"}.items():
        monkeypatch.setenv(name, value)
    with moto.mock_aws():
        ec2 = boto3.client("ec2", region_name=read("aws.yaml")["provider"]["region"])
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="own", Description="own", VpcId=vpc)["GroupId"]
        boto3.client("iam").create_instance_profile(InstanceProfileName="CHANGE-ME")
        text = (CLUSTER / "aws.yaml").read_text().replace("sg-CHANGE-ME", group)
        text = text.replace("ami-CHANGE-ME", ec2.describe_images()["Images"][0]["ImageId"])
        config = prepare_config(yaml.safe_load(text))
        bare = copy.deepcopy(config)
        for node_type in bare["available_node_types"].values():
            node_type["resources"] = {}
        known = AWSNodeProvider.fillout_available_node_types_resources(bare)["available_node_types"]
        config = bootstrap_aws(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node_type in config["available_node_types"].items():
            provider.create_node(node_type["node_config"], {"role": name}, 1)
            found = {key: known[name]["resources"].get(key, 0) for key in node_type["resources"]}
            assert name == "head" or found == node_type["resources"]  # as EC2 says of the instance type
        machines = [entry["Instances"][0] for entry in ec2.describe_instances()["Reservations"]]
        groups = {entry["GroupName"] for entry in ec2.describe_security_groups()["SecurityGroups"]}
        disks = [volume["Encrypted"] for volume in ec2.describe_volumes()["Volumes"] if volume["Size"] == 150]
    spot = [machine["Tags"] for machine in machines if machine.get("InstanceLifecycle") == "spot"]
    assert {tag["Value"] for tags in spot for tag in tags if tag["Key"] == "role"} == SPOT_ROLES
    assert [m["SecurityGroups"][0]["GroupId"] for m in machines] == [group] * 5
    assert groups == {"default", "own"}  # Ray made none
    assert disks == [True] * 5
    assert {machine["MetadataOptions"]["HttpTokens"] for machine in machines} == {"required"}


# -- KubeRay ---------------------------------------------------------------------------------------------------------


RAY_CLUSTER = "kuberay/cluster/raycluster.yaml"
KUSTOMIZED = sorted(path.parent for path in (CLUSTER / "kuberay").rglob("kustomization.yaml"))


def ray_cluster() -> dict[str, Any]:
    return dict(read(RAY_CLUSTER)["spec"])


def ray_job() -> dict[str, Any]:
    """The job with the cluster in it, as Kustomize puts it together."""
    job = read("kuberay/run/job/rayjob.yaml")
    return {**job, "spec": {**job["spec"], "rayClusterSpec": ray_cluster()}}


def kustomized(name: str) -> dict[str, dict[str, Any]]:
    """The objects that `kubectl apply -k` would send, by kind and name. kubectl makes them without a cluster."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl")
    command = ["kubectl", "kustomize", str(CLUSTER / "kuberay" / name)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return {f"{found['kind']} {found['metadata']['name']}": found for found in yaml.safe_load_all(text)}


@pytest.mark.parametrize("manifest", [read(RAY_CLUSTER), ray_job()], ids=["cluster", "job"])
def test_manifests_hold_only_fields_that_kuberay_knows(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])


def named(value: Any) -> Any:
    """The value with the registry in the names of the images, as `images` of a kustomization sets it."""
    if isinstance(value, dict):
        return {key: named(part) for key, part in value.items()}
    if isinstance(value, list):
        return [named(part) for part in value]
    return f"CHANGE-ME/{value}" if isinstance(value, str) and value.startswith("echodfkd:") else value


def test_kustomize_makes_the_run_of_the_clusters_own_file() -> None:
    found = kustomized("run")
    assert set(found) == {"RayJob echodfkd"}
    job = found["RayJob echodfkd"]
    assert job["spec"] == named(ray_job()["spec"])
    jsonschema.validate(job, SCHEMAS["RayJob"])
    assert kustomized("cluster")["RayCluster echodfkd"]["spec"] == named(ray_cluster())
    queued = kustomized("kueue")["RayJob echodfkd"]
    assert queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "CHANGE-ME"}
    assert "suspend" not in queued["spec"]  # Kueue's
    spec = queued["spec"].pop("rayClusterSpec")
    expected = named(ray_cluster()) | {"enableInTreeAutoscaling": False}
    del expected["autoscalerOptions"]
    assert spec == expected
    assert queued["spec"]["shutdownAfterJobFinishes"] is True  # demanded by Kueue, as are at most 7 groups
    assert len(spec["workerGroupSpecs"]) <= 7


def test_pods_name_what_the_other_files_make() -> None:
    classes = {found["metadata"]["name"] for found in read_all("kuberay/once/priority_classes.yaml")}
    accounts = {found["metadata"]["name"] for found in read_all("kuberay/shared/service_account.yaml")}
    spec = ray_cluster()
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    pods.append(ray_job()["spec"]["submitterPodTemplate"]["spec"])
    assert {pod["priorityClassName"] for pod in pods} == classes
    assert {pod["serviceAccountName"] for pod in pods} == accounts
    assert all("ephemeral-storage" in pod["containers"][0]["resources"]["requests"] for pod in pods)
    steady = {group["groupName"] for group in spec["workerGroupSpecs"] if is_steady(group)}
    assert is_steady(spec["headGroupSpec"])
    assert steady == {group["groupName"] for group in spec["workerGroupSpecs"]} - SPOT_ROLES
    enforced = read("kuberay/once/namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    listed = [name for folder in KUSTOMIZED for name in read_resources(folder)]
    assert all((folder / name).exists() for folder, name in listed)
    plain = {path for path in (CLUSTER / "kuberay").rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert plain == {(folder / name).resolve() for folder, name in listed if name.endswith(".yaml")}


def read_all(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def read_resources(folder: Path) -> list[tuple[Path, str]]:
    found = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return [(folder, name) for name in found["resources"]]


def is_steady(group: dict[str, Any]) -> bool:
    """Whether machines are not taken from a pod to save some, and other pods make room for it."""
    notes = group["template"]["metadata"].get("annotations", {})
    stays = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    assert notes in ({}, stays)
    assert bool(notes) == (group["template"]["spec"]["priorityClassName"] == "echodfkd-steady")
    return bool(notes)


def test_the_schema_of_manifests_finds_mistakes() -> None:
    def refuses(change: dict[str, Any]) -> bool:
        manifest = {**read(RAY_CLUSTER), "spec": {**ray_cluster(), **change}}
        return not jsonschema.Draft202012Validator(SCHEMAS["RayCluster"]).is_valid(manifest)

    assert not refuses({})
    assert refuses({"enableInTreeAutoscalling": True})
    assert refuses({"authOptions": {"mode": "disabled", "secretName": "x"}})
    assert refuses({"workerGroupSpecs": []})
    group = copy.deepcopy(ray_cluster()["workerGroupSpecs"][0])
    group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 4
    assert refuses({"workerGroupSpecs": [group]})


def test_the_job_runs_the_shipped_config() -> None:
    job = ray_job()["spec"]
    words = job["entrypoint"].split()
    home = "/home/ray/echodfkd/"
    assert [(ROOT / word.removeprefix(home)).is_file() for word in words if word.startswith(home)] == [True, True]
    assert f"WORKDIR {home.rstrip('/')}" in (CLUSTER / "Dockerfile").read_text()


def test_groups_of_pods_are_consistent() -> None:
    spec = ray_cluster()
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        keys = {toleration["key"] for toleration in pod["tolerations"]}
        amounts = pod["containers"][0]["resources"]
        assert group["minReplicas"] == group["replicas"] <= group["maxReplicas"]
        assert amounts["limits"] == amounts["requests"]
        assert ("nvidia.com/gpu" in keys) == ("nvidia.com/gpu" in amounts["limits"])
        assert ("spot" in keys) == ("spot" in pod.get("nodeSelector", {})) == (group["groupName"] in SPOT_ROLES)


OURS = {"app.kubernetes.io/part-of": "echodfkd"}


def test_pods_write_only_where_ray_must_and_gain_no_rights() -> None:
    spec = ray_cluster()
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod, (container,) = group["template"]["spec"], group["template"]["spec"]["containers"]
        assert group["template"]["metadata"]["labels"] == OURS
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shm": "/dev/shm", "tmp": "/tmp"}  # the object store; sessions, logs, spilled objects
        assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
        assert {"name": "HOME", "value": "/tmp"} in container["env"]
        is_head = group is spec["headGroupSpec"]
        assert is_head or pod["automountServiceAccountToken"] is False  # the head's autoscaler asks Kubernetes for pods


def test_the_network_policy_admits_the_cluster_s_own_pods_and_opens_little() -> None:
    policy = read("kuberay/shared/network_policy.yaml")
    spec = policy["spec"]
    assert spec["podSelector"] == {"matchLabels": OURS}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    peers = [peer for rule in spec["ingress"] for peer in rule["from"]]
    assert [peer["podSelector"] for peer in peers if "podSelector" in peer] == [{"matchLabels": OURS}]
    assert all(peer.get("podSelector", peer.get("namespaceSelector")) for peer in peers)  # {} would admit every one
    inside, names, anywhere = spec["egress"]
    assert inside == {"to": [{"podSelector": {"matchLabels": OURS}}]}
    assert {entry["port"] for entry in names["ports"]} == {53}
    assert {entry["port"] for entry in anywhere["ports"]} == {443, 6443}  # not the machine's metadata, port 80
    folders = (folder for folder in KUSTOMIZED if folder.name not in ("once", "run", "kueue"))
    namespaces = {yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"] for folder in folders}
    assert namespaces == {"echodfkd"}
    assert ray_job()["spec"]["submitterPodTemplate"]["metadata"]["labels"] == OURS


def test_prometheus_finds_and_reaches_the_metrics() -> None:
    container = ray_cluster()["headGroupSpec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    scraped = {entry["port"] for entry in read("kuberay/shared/pod_monitor.yaml")["spec"]["podMetricsEndpoints"]}
    _, monitoring = read("kuberay/shared/network_policy.yaml")["spec"]["ingress"]
    assert {port["port"] for port in monitoring["ports"]} == {ports[name] for name in scraped}


def test_versions_are_those_of_the_constraints() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert ray_cluster()["rayVersion"] == pins["ray"]
    assert f"torch=={pins['torch']}\n" in (CLUSTER / "Dockerfile").read_text()


# -- the example config on each of them ------------------------------------------------------------------------------


def ray_up_nodes(name: str, count: str) -> list[Node]:
    """The machines of a `ray up` file, as many as ``count`` (min_workers or max_workers) says."""
    return [
        Node(kind, group["resources"].get("CPU", 0), group["resources"].get("GPU", 0), group.get("labels", {}))
        for kind, group in read(name)["available_node_types"].items()
        for _ in range(group.get(count, 0))
    ]


def kuberay_nodes(count: str) -> list[Node]:
    nodes = []
    for group in ray_cluster()["workerGroupSpecs"]:
        amounts = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for _ in range(group[count]):
            gpus = float(amounts.get("nvidia.com/gpu", 0))
            nodes.append(Node(group["groupName"], float(amounts["cpu"]), gpus, group["labels"]))
    return nodes


def slurm_nodes() -> list[Node]:
    """What the Slurm script asks for must be what it tells Ray."""
    text, nodes = (CLUSTER / "slurm.sh").read_text(), []
    asked = re.findall(r"^#SBATCH .*--nodes=(\d+) .*--cpus-per-task=(\d+)(?: --gpus-per-node=(\d+))?", text, re.M)
    told = re.findall(r"^start (\d) worker .*--num-cpus=(\d+)(?: --num-gpus=(\d+))? --labels=(\S+)=(\S+)$", text, re.M)
    assert [int(component) for component, *_ in told] == list(range(1, len(asked)))
    for (count, *amounts), (_, cpus, gpus, key, value) in zip(asked[1:], told, strict=True):
        assert amounts == [cpus, gpus]
        nodes += [Node(value, float(cpus), float(gpus or 0), {key: value}) for _ in range(int(count))]
    return nodes


LEAST = {
    "aws": lambda: ray_up_nodes("aws.yaml", "min_workers"),
    "gcp": lambda: ray_up_nodes("gcp.yaml", "min_workers"),
    "kuberay": lambda: kuberay_nodes("minReplicas"),
    "slurm": slurm_nodes,
}


@pytest.mark.parametrize("name", LEAST)
def test_a_cluster_at_its_smallest_holds_the_example_config(name: str, config: RunConfig) -> None:
    """A run checks this before it starts, on the machines that are there: what would come later does not count."""
    wanted = [config.train.node_label, config.teacher.node_label, config.evaluation.node_label]
    assert wanted == ["role=student", "role=teacher", "ray-subcluster=eval"]
    assert place(roles(config), LEAST[name]()) == []
    nameless = [Node(node.name, node.cpus, node.gpus, {}) for node in LEAST[name]()]
    assert len(place(roles(config), nameless)) == 3  # each of the labels is needed


@pytest.mark.parametrize(
    "most",
    [ray_up_nodes("aws.yaml", "max_workers"), ray_up_nodes("gcp.yaml", "max_workers"), kuberay_nodes("maxReplicas")],
)
def test_a_cluster_at_its_largest_has_a_gpu_for_each_teacher(most: list[Node], config: RunConfig) -> None:
    teachers = sum(node.gpus for node in most if node.labels == {"role": "teacher"})
    assert teachers == config.teacher.max_actors * config.teacher.num_gpus


def test_a_stop_leaves_time_for_a_checkpoint(config: RunConfig) -> None:
    head = ray_cluster()["headGroupSpec"]["template"]["spec"]
    waits = {entry["name"]: entry["value"] for entry in head["containers"][0]["env"]}
    assert config.train.stop_grace_s < int(waits["RAY_JOB_STOP_WAIT_TIME_S"]) < head["terminationGracePeriodSeconds"]
    for name in (*RAY_UP, "start_ray.sh"):
        (waited,) = re.findall(r"RAY_JOB_STOP_WAIT_TIME_S(?:=|:-)(\d+)", (CLUSTER / name).read_text())
        assert config.train.stop_grace_s < int(waited)


class FakeJobs:
    """Ray's job server: a job that is told to stop ends at the next look but one; "deaf" never does."""

    def __init__(self) -> None:
        self.looks = {"done": 99, "first": 0, "deaf": -(10**9)}
        self.stopped: list[str] = []

    def list_jobs(self) -> list[SimpleNamespace]:
        ids = [*self.looks, None]  # None: a driver that was not submitted
        return [SimpleNamespace(submission_id=name, status=self.get_job_status(name or "first")) for name in ids]

    def stop_job(self, name: str) -> None:
        self.stopped.append(name)

    def get_job_status(self, name: str) -> JobStatus:
        self.looks[name] += name in self.stopped
        return JobStatus.STOPPED if self.looks[name] > 1 else JobStatus.RUNNING


def test_a_pods_hook_stops_the_jobs_that_run_and_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.stop_jobs.time.sleep", lambda seconds: None)
    jobs = FakeJobs()
    assert stop_jobs(cast(Any, jobs), wait_s=0.2) == ["deaf"]
    assert jobs.stopped == ["first", "deaf"]


def test_a_head_that_is_taken_away_has_time_for_its_hook(config: RunConfig) -> None:
    spec = ray_cluster()["headGroupSpec"]["template"]["spec"]
    hook = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["python", "/home/ray/echodfkd/cluster/stop_jobs.py"]
    assert (CLUSTER / "stop_jobs.py").is_file()
    assert config.train.stop_grace_s + 30 <= WAIT_S <= spec["terminationGracePeriodSeconds"] - 15
