"""The fields of KubeRay's RayCluster and RayJob (ray.io/v1) that our manifests use, as a strict JSON schema.

Names, types and allowed values are those of KubeRay 1.7's custom resource definitions and of Kubernetes' pods; what
we do not use is not in it, so that a field that is misspelt, or new to us, fails.
"""

from typing import Any

STRING = {"type": "string"}
BOOLEAN = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": STRING}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}


def record(required: str = "", **fields: Any) -> dict[str, Any]:
    """An object with these fields and no others; ``required`` lists names, with blanks between them."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def array(items: dict[str, Any], least: int = 1) -> dict[str, Any]:
    """A list of at least so many items."""
    return {"type": "array", "items": items, "minItems": least}


AMOUNTS = {
    "type": "object",
    "properties": {
        "cpu": QUANTITY,
        "memory": QUANTITY,
        "ephemeral-storage": QUANTITY,
        "nvidia.com/gpu": {"type": "string", "pattern": "^[1-9]$"},
    },
    "required": ["cpu", "memory"],
    "additionalProperties": False,
}
RESOURCES = record("requests limits", requests=AMOUNTS, limits=AMOUNTS)
CONTAINER_SECURITY = record(
    "allowPrivilegeEscalation capabilities",
    allowPrivilegeEscalation={"const": False},
    readOnlyRootFilesystem={"const": True},
    capabilities=record("drop", drop=array(STRING)),
)
POD_SECURITY = record(
    "runAsNonRoot runAsUser",
    runAsNonRoot={"const": True},
    runAsUser={"type": "integer", "minimum": 1},
    fsGroup=COUNT,
    seccompProfile=record("type", type={"const": "RuntimeDefault"}),
)
CONTAINER = record(
    "name image resources securityContext",
    name=NAME,
    image=STRING,
    env=array(record("name value", name=STRING, value=STRING)),
    envFrom=array(record("secretRef", secretRef=record("name", name=NAME, optional=BOOLEAN))),
    lifecycle=record("preStop", preStop=record("exec", exec=record("command", command=array(STRING)))),
    ports=array(record("name containerPort", name=NAME, containerPort={"type": "integer"})),
    resources=RESOURCES,
    securityContext=CONTAINER_SECURITY,
    volumeMounts=array(record("name mountPath", name=NAME, mountPath=STRING)),
)
POD = record(
    "containers securityContext terminationGracePeriodSeconds",
    automountServiceAccountToken=BOOLEAN,
    containers=array(CONTAINER),
    nodeSelector=STRINGS,
    priorityClassName=NAME,
    securityContext=POD_SECURITY,
    serviceAccountName=NAME,
    terminationGracePeriodSeconds=COUNT,
    tolerations=array(
        record(
            "key operator effect",
            key=STRING,
            operator={"enum": ["Exists", "Equal"]},
            value=STRING,
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    volumes=array(record("name emptyDir", name=NAME, emptyDir=record(medium={"const": "Memory"}))),
)
TEMPLATE = record("spec", metadata=record(annotations=STRINGS, labels=STRINGS), spec=POD)
WORKER_GROUP = record(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    labels=STRINGS,
    rayStartParams=STRINGS,
    template=TEMPLATE,
)
RAY_CLUSTER_SPEC = record(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=record(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=RESOURCES,
        securityContext=CONTAINER_SECURITY,
    ),
    authOptions=record("mode secretName", mode={"const": "token"}, secretName=NAME),
    headGroupSpec=record(
        "rayStartParams template",
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        enableIngress=BOOLEAN,
        rayStartParams=STRINGS,
        template=TEMPLATE,
    ),
    workerGroupSpecs=array(WORKER_GROUP),
)
SUBMITTER = record(
    "containers restartPolicy",
    containers=array(CONTAINER),
    restartPolicy={"const": "Never"},
    automountServiceAccountToken=BOOLEAN,
    priorityClassName=NAME,
    securityContext=POD_SECURITY,
    serviceAccountName=NAME,
)
RAY_JOB_SPEC = record(
    "entrypoint rayClusterSpec",
    submitterPodTemplate=record("spec", metadata=record(labels=STRINGS), spec=SUBMITTER),
    entrypoint=STRING,
    backoffLimit=COUNT,
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=BOOLEAN,
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=RAY_CLUSTER_SPEC,
)
METADATA = record("name", name=NAME, namespace=NAME, labels=STRINGS)
API_VERSION = {"const": "ray.io/v1"}
SCHEMAS = {
    "RayCluster": record(
        "apiVersion kind metadata spec",
        apiVersion=API_VERSION,
        kind={"const": "RayCluster"},
        metadata=METADATA,
        spec=RAY_CLUSTER_SPEC,
    ),
    "RayJob": record(
        "apiVersion kind metadata spec",
        apiVersion=API_VERSION,
        kind={"const": "RayJob"},
        metadata=METADATA,
        spec=RAY_JOB_SPEC,
    ),
}
