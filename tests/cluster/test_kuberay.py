"""examples/kuberay.yaml: what KubeRay's operator checks of a RayJob, and that what it starts is a command of ours.

Of the operator's own validation (ray-operator/controllers/ray/utils/validation.go) and its custom resource definition
as of KubeRay 1.5; the definition itself, a megabyte, is not here. A cluster has not run it yet.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from arriero.cli.main import app

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
EXAMPLE, DOCS = ROOT / "examples" / "kuberay.yaml", ROOT / "docs" / "scale.md"
FIELDS = {
    "job": "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
    "entrypointNumGpus entrypointResources jobId managedBy metadata rayClusterSpec runtimeEnvYAML "
    "shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished",
    "cluster": "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
    "headServiceAnnotations managedBy rayVersion suspend upgradeStrategy workerGroupSpecs",
    "head": "enableIngress headService labels rayStartParams resources serviceType template",
    "workers": "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas "
    "resources scaleStrategy suspend template",
}


@pytest.fixture(scope="module")
def resources():
    """By kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))}


def test_the_operator_takes_it(resources):
    job, cluster = resources["RayJob"]["spec"], resources["RayJob"]["spec"]["rayClusterSpec"]
    head, [workers] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert resources["RayJob"]["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", resources["RayJob"]["metadata"]["name"])
    for name, spec in {"job": job, "cluster": cluster, "head": head, "workers": workers}.items():
        assert set(spec) <= set(FIELDS[name].split())
    assert job["submissionMode"] == "SidecarMode"
    assert not {"clusterSelector", "submitterPodTemplate", "submitterConfig"} & set(job)
    assert head["template"]["spec"].get("restartPolicy", "Never") == "Never"
    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)
    assert 0 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert all(isinstance(value, str) for value in head["rayStartParams"].values())


def test_every_mount_has_its_volume_and_every_worker_sees_what_the_server_names(resources):
    cluster = resources["RayJob"]["spec"]["rayClusterSpec"]
    paths = []
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        paths.append(mounts["models"])
    assert len(set(paths)) == 1, "the model lies at the same path on every machine"


def test_the_server_s_port_is_the_only_one_open_to_others(resources):
    pod = resources["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    [port] = pod["spec"]["containers"][0]["ports"]
    [served] = resources["Service"]["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (port["containerPort"], port["name"]) == (6006, "http")
    assert resources["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    policy = resources["NetworkPolicy"]["spec"]
    for group in resources["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert policy["podSelector"]["matchLabels"].items() <= group["template"]["metadata"]["labels"].items()
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert [rule["ports"] for rule in policy["ingress"] if "from" not in rule] == [[{"port": 6006}]]


def commands():
    """The lines of the example and of its page that start Arriero."""
    [entrypoint] = re.findall(r"entrypoint: (arriero .*)", EXAMPLE.read_text(encoding="utf-8"))
    page = re.findall(r"^    (?:\w+\$ )?(arriero [^#\n]*)", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(page) > 9
    return [entrypoint, *(line.strip() for line in page)]


@pytest.mark.parametrize("command", commands())
def test_commands_are_ours(command):
    _, *arguments = shlex.split(command)
    app.parse_args(arguments, exit_on_error=False, print_error=False)
