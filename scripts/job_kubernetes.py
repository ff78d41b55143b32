"""A job as Kubernetes takes it: a Job, an indexed Job or a PyTorchJob, with its claims and its own files beside it.

A pod that is evicted or preempted is replaced and counts for nothing; exit code 2 (the command is wrong) ends the job, for
no machine would do better; every other end counts against `retries`.
"""

from typing import Any

import yaml
from job_file import FILES, Job, Volume

Manifest = dict[str, Any]
PORT = 29500  # where the processes of a PyTorchJob meet
NOBODY = 65532  # a user id without an account; clusters may put another in its place


def manifests(job: Job) -> list[Manifest]:
    """What is to be applied, in this order."""
    own = [config_map(job)] if job.files else []
    claims = [claim(job, volume) for volume in job.volumes if volume.size]
    meeting = job.nodes > 1 and not job.independent
    return [*claims, *own, pytorch_job(job) if meeting else plain_job(job)]


def text(job: Job) -> str:
    return yaml.safe_dump_all(manifests(job), sort_keys=False, allow_unicode=True, width=120)


def plain_job(job: Job) -> Manifest:
    """One pod, or of sample.py several that share the images of one folder."""
    policy = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "pytorch", "operator": "In", "values": [2]},
        },
    ]
    spec: Manifest = {
        "backoffLimit": job.retries,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": policy},
    }
    if job.hours:
        spec["activeDeadlineSeconds"] = job.hours * 3600
    if job.independent:
        spec |= {"completionMode": "Indexed", "completions": job.nodes, "parallelism": job.nodes}
    return {**head("batch/v1", "Job", job), "spec": {**spec, "template": pod(job, "Never")}}


def pytorch_job(job: Job) -> Manifest:
    """One master and its workers. ExitCode: codes from 128 (killed, 143) start a pod again, others end the job."""
    replica = {"restartPolicy": "ExitCode", "template": pod(job, "")}
    policy: Manifest = {"backoffLimit": job.retries, "cleanPodPolicy": "Running"}
    if job.hours:
        policy["activeDeadlineSeconds"] = job.hours * 3600
    replicas = {
        "Master": {"replicas": 1, **replica},
        "Worker": {"replicas": job.nodes - 1, **replica},
    }
    return {
        **head("kubeflow.org/v1", "PyTorchJob", job),
        "spec": {"runPolicy": policy, "pytorchReplicaSpecs": replicas},
    }


def claim(job: Job, volume: Volume) -> Manifest:
    modes = ["ReadWriteMany"] if job.nodes > 1 else ["ReadWriteOnce"]
    spec = {"accessModes": modes, "resources": {"requests": {"storage": volume.size}}}
    return {**head("v1", "PersistentVolumeClaim", job, volume.claim), "spec": spec}


def config_map(job: Job) -> Manifest:
    return {**head("v1", "ConfigMap", job, f"{job.name}-files"), "data": dict(job.files)}


def head(version: str, kind: str, job: Job, name: str = "") -> Manifest:
    about: Manifest = {"name": name or job.name, "labels": {"app": "palimpsest", "job": job.name}}
    if job.project:
        about["namespace"] = job.project
    return {"apiVersion": version, "kind": kind, "metadata": about}


def pod(job: Job, restart: str) -> Manifest:
    spec: Manifest = {
        "terminationGracePeriodSeconds": job.grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "fsGroup": NOBODY,
        },
        "containers": [container(job)],
        "volumes": [source(index, volume) for index, volume in enumerate(job.volumes)]
        + scratch(job),
    }
    if restart:
        spec["restartPolicy"] = restart
    return {"metadata": {"labels": {"app": "palimpsest", "job": job.name}}, "spec": spec}


def container(job: Job) -> Manifest:
    room: Manifest = {"cpu": str(job.cpus), "memory": job.memory}
    if job.gpus:
        room["nvidia.com/gpu"] = str(job.gpus)
    mounts = [
        {"name": f"volume-{index}", "mountPath": volume.mount, "readOnly": volume.read_only}
        for index, volume in enumerate(job.volumes)
    ]
    mounts += [
        {"name": "memory", "mountPath": "/dev/shm"},
        {"name": "temporary", "mountPath": "/tmp"},
    ]
    if job.files:
        mounts.append({"name": "files", "mountPath": FILES, "readOnly": True})
    made: Manifest = {
        "name": "pytorch",  # the one that the operator of PyTorchJob looks for
        "image": job.image,
        "args": job.words,  # of the image's entry point, python
        "env": [{"name": key, "value": value} for key, value in job.variables.items()],
        "resources": {"requests": dict(room), "limits": dict(room)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    if job.nodes > 1 and not job.independent:
        made["ports"] = [{"name": "pytorchjob-port", "containerPort": PORT}]
    return made


def source(index: int, volume: Volume) -> Manifest:
    """Where a volume comes from; a claim goes before a folder of the node."""
    if volume.claim:
        return {
            "name": f"volume-{index}",
            "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only},
        }
    return {"name": f"volume-{index}", "hostPath": {"path": volume.host, "type": "Directory"}}


def scratch(job: Job) -> list[Manifest]:
    """What may be written beside the volumes, and the job's own files. Loaders' workers hand images over in /dev/shm."""
    made: list[Manifest] = [
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "temporary", "emptyDir": {}},
    ]
    if job.files:
        made.append({"name": "files", "configMap": {"name": f"{job.name}-files"}})
    return made
