"""The Helm chart: what it renders is what Kubernetes takes and what Shoal's own commands understand.

No cluster is to be had here: what kubelets and Helm's hooks do with it is not seen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shoal.cli.configuration import Configuration
from shoal.settings import load
from tests.acceptance.documents import commands, documents, typed
from tests.world.programs import ProgramFailed, run
from tests.world.tools import build_tool

pytestmark = pytest.mark.timeout(400)
_ROOT = Path(__file__).parents[2]
_CHART = _ROOT / "deploy/helm/shoal"
_PLAIN = _ROOT / "deploy/kubernetes"
_KUBERNETES = ("1.25", "1.29", "1.33", kubernetes_validate.latest_version())
_IMAGE = {"image": {"repository": "registry.example/shoal"}}
_VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "all": {
        "networkPolicy": {"enabled": True, "nodes": ["10.0.0.0/16"]},
        "monitoring": {"podMonitor": {"enabled": True}, "alerts": {"enabled": True}, "dashboard": {"enabled": True}},
        "imagePullSecrets": [{"name": "login"}],
        "commonLabels": {"team": "platform"},
        "peer": {
            "podAnnotations": {"example/of": "an annotation"},
            "affinity": {"nodeAffinity": {}},
            "extraEnv": [{"name": "SHOAL_PEER__ZONE", "value": "b4"}],
            "extraVolumes": [{"name": "login", "secret": {"secretName": "login"}}],
            "extraVolumeMounts": [{"name": "login", "mountPath": "/run/login", "readOnly": True}],
        },
        "supernode": {
            "tolerations": [{"operator": "Exists"}],
            "extraEnv": [{"name": "SHOAL_LOG__LEVEL", "value": "debug"}],
        },
    },
    "open policy": {"networkPolicy": {"enabled": True}},
    "own secrets": {"cluster": {"existingSecret": "mine"}, "operator": {"existingSecret": "theirs"}},
    "certificates": {
        "cluster": {"certificates": {"peer": "mine", "supernode": "theirs"}},
        "operator": {"certificate": "login"},
        "monitoring": {"podMonitor": {"enabled": True}},
    },
    "k3s": {"runtime": {"name": "k3s"}, "peer": {"containerd": "/var/lib/rancher/k3s/agent/containerd"}},
    "openshift": {"runtime": {"name": "crio"}, "peer": {"containerd": "", "seLinuxOptions": {"type": "spc_t"}}},
    "talos": {"runtime": {"name": "none"}, "supernode": {"host": "::"}},
    "other ports": {
        "image": {"digest": f"sha256:{'0' * 64}"},
        "peer": {"ports": {"mirror": 6080, "peer": 6081, "operations": 6082}},
        "supernode": {"ports": {"peers": 6090, "operations": 6091}},
        "fullnameOverride": "swarm",
    },
}
_Object = dict[str, Any]


def merged(over: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    both = {**under, **over}
    for key in over.keys() & under.keys():
        if isinstance(over[key], dict) and isinstance(under[key], dict):
            both[key] = merged(over[key], under[key])
    return both


@pytest.fixture(scope="module")
def helm() -> Path:
    return build_tool("helm")


def render(
    helm: Path, folder: Path, values: Mapping[str, Any], *more: str, release: str = "shoal", namespace: str = "shoal"
) -> list[_Object]:
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    text = run(helm, "template", release, _CHART, "--namespace", namespace, "--values", file, *more)
    return [each for each in yaml.safe_load_all(text) if each]


@pytest.fixture(scope="module", params=_VALUES)
def rendered(helm: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[_Object]:
    return render(helm, tmp_path_factory.mktemp("values"), merged(_VALUES[request.param], _IMAGE))


@pytest.fixture(scope="module")
def objects(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], _Object]:
    """With all that is optional, by kind and name."""
    found = render(helm, tmp_path_factory.mktemp("values"), merged(_VALUES["all"], _IMAGE))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods(rendered: list[_Object]) -> Iterator[_Object]:
    return (each["spec"]["template"] for each in rendered if "template" in each.get("spec", {}))


def containers(pod: _Object) -> list[_Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


# --- Helm and Kubernetes ---------------------------------------------------------------------------------------------


def test_helm_finds_nothing_wrong(helm: Path) -> None:
    said = run(helm, "lint", "--strict", _CHART, "--set", "image.repository=registry.example/shoal")
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("version", _KUBERNETES)
def test_kubernetes_takes_all_objects(rendered: list[_Object], version: str) -> None:
    for each in rendered:
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(each, version, strict=True)


def test_a_wrong_object_would_be_found(objects: dict[tuple[str, str], _Object]) -> None:
    wrong = merged({"spec": {"updateStrategi": {}}}, objects["DaemonSet", "shoal-peer"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, _KUBERNETES[0], strict=True)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"peer": {"prots": {}}}, "prots"),
        ({"peer": {"ports": {"mirror": 80}}}, "/peer/ports/mirror"),
        ({"supernode": {"replicas": 3}}, "replicas"),
        ({"runtime": {"name": "docker"}}, "/runtime/name"),
        ({"networkPolicy": {"nodes": ["10.0.0"]}}, "/networkPolicy/nodes/0"),
        ({"monitoring": {"podMonitor": {"enabled": "yes"}}}, "/monitoring/podMonitor/enabled"),
        ({"peer": {"store": "relative"}}, "/peer/store"),
        ({"commonLabels": {"app.kubernetes.io/name": "ours"}}, "app.kubernetes.io/name"),
        ({"image": {"repository": "registry.example/shoal:1.0"}}, "/image/repository"),
        ({"cluster": {"certificates": {"peer": "mine"}}}, "Set both or none of cluster.certificates.peer and"),
        ({"image": {"repository": ""}}, "Set image.repository to where you have pushed the image"),
    ],
)
def test_wrong_values_are_refused(helm: Path, tmp_path: Path, values: dict[str, Any], why: str) -> None:
    with pytest.raises(ProgramFailed, match=re.escape(why)):
        render(helm, tmp_path, merged(values, _IMAGE))


@pytest.mark.parametrize("name", ["123", "true", "r" * 53])
def test_kubernetes_takes_each_name_of_a_release(helm: Path, tmp_path: Path, name: str) -> None:
    for each in render(helm, tmp_path, _IMAGE, release=name, namespace=name):
        kubernetes_validate.validate(each, _KUBERNETES[0], strict=True)
        longest = 63 - len("-0123456789") if each["kind"] == "StatefulSet" else 63
        assert len(each["metadata"]["name"]) <= longest, "a label of the pods has this and their revision"


def test_every_value_is_in_the_schema(helm: Path) -> None:
    schema = json.loads((_CHART / "values.schema.json").read_text())
    values = yaml.safe_load((_CHART / "values.yaml").read_text())

    def compare(values: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> None:
        known = schema["properties"].keys() - {"global"}
        assert values.keys() == known, path
        for key, value in values.items():
            if value and isinstance(value, dict) and "properties" in schema["properties"][key]:
                compare(value, schema["properties"][key], f"{path}.{key}")

    compare(values, schema, "")


def test_the_plain_manifests_are_what_the_chart_renders(helm: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((_PLAIN / "values.yaml").read_text())
    for name, options in {"shoal": ["--no-hooks"], "cleanup": ["--show-only", "templates/cleanup.yaml"]}.items():
        stored = [each for each in yaml.safe_load_all((_PLAIN / f"{name}.yaml").read_text()) if each]
        assert stored == render(helm, tmp_path, values, *options), "`make manifests` makes them anew"


def test_the_table_of_values_is_what_values_yaml_says(tmp_path: Path) -> None:
    chart = tmp_path / "shoal"
    shutil.copytree(_CHART, chart, ignore=shutil.ignore_patterns("files"))
    (chart / "README.md").unlink()
    run(build_tool("helm-docs"), "--chart-search-root", tmp_path, "--log-level", "warning")
    assert (chart / "README.md").read_text() == (_CHART / "README.md").read_text(), "`make manifests` makes it anew"


def test_what_the_documents_type_is_what_the_chart_makes(
    helm: Path, objects: dict[tuple[str, str], _Object], tmp_path: Path
) -> None:
    """The values that they set, and the objects that they name."""
    installed = set()
    for document in documents():
        for block in typed(document):
            for words in commands(block.text) if block.words == ("elsewhere", "kubernetes") else ():
                if words[:2] == ["helm", "install"]:
                    options = [_CHART if each == "deploy/helm/shoal" else each for each in words[2:]]
                    run(helm, "template", *options)
                    installed.add(document)
                for kind, name in re.findall(r"\b(daemonset|statefulset|secret)[/ ]([a-z-]+)", " ".join(words)):
                    if name != "generic":
                        assert name in {named for sort, named in objects if sort.lower() == kind}, words
    assert len(installed) == 2


def test_the_chart_is_packed_with_what_its_links_lead_to(helm: Path, tmp_path: Path) -> None:
    run(helm, "package", _CHART, "--destination", tmp_path)
    (archive,) = tmp_path.glob("shoal-*.tgz")
    run("tar", "--extract", "--file", archive, "--directory", tmp_path)
    assert (tmp_path / "shoal/files/alerts.yml").read_text() == (_ROOT / "deploy/prometheus/alerts.yml").read_text()


def test_chart_and_program_have_one_version() -> None:
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((_CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version


# --- what pods may, and what they are made of ------------------------------------------------------------------------


def test_containers_have_no_rights_but_those_that_they_need(rendered: list[_Object]) -> None:
    roots = {}
    for pod in pods(rendered):
        assert pod["spec"]["automountServiceAccountToken"] is False
        for each in containers(pod):
            context = each["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            if context["runAsUser"] == 0:
                roots[each["name"]] = context["capabilities"].get("add", [])
            else:
                assert "add" not in context["capabilities"]
    unlocked = {name: added for name, added in roots.items() if added}
    assert unlocked == {"store": ["CHOWN"]}
    assert roots.keys() <= {"store", "configure", "undo"}
    assert not [each for each in rendered if "Role" in each["kind"]], "nothing is asked of Kubernetes"


def test_what_pods_name_is_there(rendered: list[_Object]) -> None:
    by_kind = {(each["kind"], each["metadata"]["name"]) for each in rendered}
    for pod in pods(rendered):
        volumes = {each["name"]: each for each in pod["spec"].get("volumes", [])}
        mounted = {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", [])}
        assert mounted == volumes.keys()
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in by_kind
            if "secret" in volume and volume["secret"]["secretName"] not in ("mine", "theirs", "login"):
                assert ("Secret", volume["secret"]["secretName"]) in by_kind
        for each in containers(pod):
            ports = {port["name"] for port in each.get("ports", [])}
            probes = [each[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in each]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports
        if "serviceAccountName" in pod["spec"]:
            assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in by_kind


def test_selectors_find_the_pods_that_they_are_for(objects: dict[tuple[str, str], _Object]) -> None:
    labels = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["metadata"]["labels"]
        for pod in pods(list(objects.values()))
    }

    def found(selector: Mapping[str, str]) -> set[str]:
        return {name for name, each in labels.items() if selector.items() <= each.items()}

    assert found(objects["Service", "shoal-supernode"]["spec"]["selector"]) == {"supernode"}
    assert found(objects["Service", "shoal-cleanup"]["spec"]["selector"]) == {"cleanup"}
    policy = objects["NetworkPolicy", "shoal-supernode"]["spec"]
    assert found(policy["podSelector"]["matchLabels"]) == {"supernode"}
    monitor = objects["PodMonitor", "shoal"]["spec"]
    assert {"peer", "supernode"} <= found(monitor["selector"]["matchLabels"])
    for name in ("supernode", "peer"):
        kind = "StatefulSet" if name == "supernode" else "DaemonSet"
        (container,) = objects[kind, f"shoal-{name}"]["spec"]["template"]["spec"]["containers"]
        assert {each["port"] for each in monitor["podMetricsEndpoints"]} <= {
            each["name"] for each in container["ports"]
        }


def test_monitoring_takes_the_files_as_they_are(objects: dict[tuple[str, str], _Object]) -> None:
    alerts = yaml.safe_load((_ROOT / "deploy/prometheus/alerts.yml").read_text())
    assert objects["PrometheusRule", "shoal"]["spec"] == alerts
    dashboard = json.loads((_ROOT / "deploy/grafana/shoal.json").read_text())
    assert json.loads(objects["ConfigMap", "shoal-dashboard"]["data"]["shoal.json"]) == dashboard


def test_the_cleanup_uses_nothing_that_is_gone_by_then(rendered: list[_Object]) -> None:
    hooks = [each for each in rendered if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    accounts = {each["metadata"]["name"] for each in hooks if each["kind"] == "ServiceAccount"}
    for pod in pods(hooks):
        assert pod["spec"]["serviceAccountName"] in accounts
        assert [each for each in pod["spec"].get("volumes", []) if "hostPath" not in each] == []
    weights = {each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in hooks}
    assert not weights or weights["ServiceAccount"] < weights["DaemonSet"] < weights["Job"]


def test_secrets_that_are_made_are_good_enough(objects: dict[tuple[str, str], _Object]) -> None:
    for name, key in {"cluster": "secret", "operator": "token"}.items():
        assert len(objects["Secret", f"shoal-{name}"]["data"][key]) >= 64, "48 characters in base64"


# --- what Shoal says to it -------------------------------------------------------------------------------------------


def written_config(objects: Mapping[tuple[str, str], _Object], folder: Path) -> Path:
    file = folder / "shoal.toml"
    file.write_text(objects["ConfigMap", "shoal"]["data"]["shoal.toml"])
    return file


def environment(container: _Object) -> dict[str, str]:
    """The variables as a kubelet sets them."""
    known = {"NODE_NAME": "node7", "NODE_ADDRESS": "192.0.2.7"}
    literal = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {key: re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], value) for key, value in literal.items()}


def test_shoal_takes_its_configuration(objects: dict[tuple[str, str], _Object], tmp_path: Path) -> None:
    (peer,) = objects["DaemonSet", "shoal-peer"]["spec"]["template"]["spec"]["containers"]
    file = written_config(objects, tmp_path)
    node = load(Configuration, file, environment(peer))
    assert (node.proxy.host, node.proxy.port) == ("127.0.0.1", 5080)
    assert (node.peer.host, node.peer.port, node.peer.advertise) == ("192.0.2.7", 5081, "192.0.2.7")
    assert (node.peer.operations.host, node.peer.name, node.peer.zone) == ("192.0.2.7", "node7", "b4")
    (supernode,) = objects["StatefulSet", "shoal-supernode"]["spec"]["template"]["spec"]["containers"]
    leader = load(Configuration, file, environment(supernode))
    service = objects["Service", "shoal-supernode"]
    assert node.peer.supernode == f"http://{service['metadata']['name']}.shoal.svc:{leader.supernode.port}"
    assert leader.supernode.host == leader.supernode.operations.host == "0.0.0.0"
    assert [each["port"] for each in service["spec"]["ports"]] == [
        leader.supernode.port,
        leader.supernode.operations.port,
    ]


def test_certificates_take_the_place_of_the_secret(helm: Path, tmp_path: Path) -> None:
    found = render(helm, tmp_path, merged(_VALUES["certificates"], _IMAGE))
    objects = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert ("Secret", "shoal-cluster") not in objects
    file = written_config(objects, tmp_path)
    for kind, role in (("DaemonSet", "peer"), ("StatefulSet", "supernode")):
        (container,) = objects[kind, f"shoal-{role}"]["spec"]["template"]["spec"]["containers"]
        settings = load(Configuration, file, environment(container))
        operations = settings.peer.operations if role == "peer" else settings.supernode.operations
        assert settings.cluster.uses_tls
        assert operations.uses_tls
        assert {container[kind]["httpGet"]["scheme"] for kind in container if kind.endswith("Probe")} == {"HTTPS"}
        if role == "peer":
            assert settings.peer.supernode == "https://shoal-supernode.shoal.svc:5090"
    assert {each["scheme"] for each in objects["PodMonitor", "shoal"]["spec"]["podMetricsEndpoints"]} == {"https"}


def test_files_that_shoal_is_told_of_are_mounted(rendered: list[_Object]) -> None:
    for pod in pods(rendered):
        for each in containers(pod):
            paths = (
                [value for key, value in environment(each).items() if value.startswith("/")] if "env" in each else []
            )
            mounts = [mount["mountPath"] for mount in each.get("volumeMounts", [])]
            lacking = [p for p in paths if not any(p.startswith(m) or m.startswith(p) for m in mounts)]
            assert lacking == []


@pytest.mark.parametrize("runtime", ["containerd", "k3s", "rke2", "crio"])
def test_the_runtime_is_told_and_forgets(helm: Path, tmp_path: Path, runtime: str) -> None:
    values = merged({"runtime": {"name": runtime}, "peer": {"ports": {"mirror": 6080}}}, _IMAGE)
    found = {(each["kind"], each["metadata"]["name"]): each for each in render(helm, tmp_path, values)}
    written_config(found, tmp_path)
    node = tmp_path / "node"

    def carry_out(container: _Object) -> None:
        mount = next(each["mountPath"] for each in container["volumeMounts"] if each["name"] == "runtime")
        (node / mount.removeprefix("/host/")).mkdir(parents=True, exist_ok=True)
        places = {"/host": str(node), "/etc/shoal/shoal.toml": str(tmp_path / "shoal.toml")}
        words = [places.get(word, word) for word in container["args"]]
        run(sys.executable, "-m", "shoal.cli", *words, environment=environment(container) if "env" in container else {})

    def files() -> list[Path]:
        return [path for path in node.rglob("*") if path.is_file()]

    peer = found["DaemonSet", "shoal-peer"]["spec"]["template"]["spec"]["initContainers"]
    carry_out(next(each for each in peer if each["name"] == "configure"))
    assert any("127.0.0.1:6080" in path.read_text() for path in files())
    (undo,) = found["DaemonSet", "shoal-cleanup"]["spec"]["template"]["spec"]["initContainers"]
    carry_out(undo)
    assert not any("127.0.0.1:6080" in path.read_text() for path in files())


def waited(objects: Mapping[tuple[str, str], _Object], port: int, seconds: str) -> subprocess.CompletedProcess[str]:
    """What the job that waits for all nodes does, with loopback in place of the pods and less patience."""
    (job,) = objects["Job", "shoal-cleanup-wait"]["spec"]["template"]["spec"]["containers"]
    python, flag, script, host, told_port, _ = job["command"]
    assert (python, flag, host, told_port) == ("python3", "-c", "shoal-cleanup.shoal.svc", "8080")
    script = script.replace("SETTLED_SECONDS = 20.0", "SETTLED_SECONDS = 0.5")
    command = [sys.executable, "-I", "-c", script, "127.0.0.1", str(port), seconds]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.defpath})


def test_the_job_waits_until_all_pods_listen(objects: dict[tuple[str, str], _Object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as pod:
        ended = waited(objects, pod.getsockname()[1], "20")
    assert (ended.returncode, ended.stdout) == (0, "1 nodes have taken it back.\n")


def test_the_job_says_who_is_not_done(objects: dict[tuple[str, str], _Object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as pod:
        port = pod.getsockname()[1]
    ended = waited(objects, port, "1")
    assert ended.returncode == 1
    assert "1 of 1 pods are not done: 127.0.0.1" in ended.stderr
