"""Lines that are put into files of others: the rest stays byte by byte, and all of it comes back."""

from __future__ import annotations

import copy
import tomllib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shoal.cli.runtimes import tomltext, yamltext
from shoal.cli.runtimes.edits import NotEditable, block, without_blocks

REGISTRY = ("plugins", "io.containerd.grpc.v1.cri", "registry")

TOML_PARTS = st.sampled_from(
    [
        "# a remark\n",
        "\n",
        '[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "pause:3"  # why\n',
        '[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = ""\n',
        "[plugins . 'io.containerd.grpc.v1.cri' . registry]\nheaders = [\n  'a', # one\n  'b',\n]\n",
        '[debug]\nlevel = """\n[plugins.x]\n"""\n',
        "[[stream]]\nreturns = 1\n",
        "[timeouts]\r\n\tx = '5s'\r\n",
    ]
)
TOML = st.lists(TOML_PARTS, max_size=6).map("".join)


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


@given(TOML.filter(is_toml))
def test_a_value_is_set_and_the_rest_stays(text: str) -> None:
    path = (*REGISTRY, "config_path")
    changed = tomltext.with_value(text, path, "/etc/certs.d")
    tables = tomllib.loads(changed)
    assert tomltext.at(tables, path) == "/etc/certs.d"
    assert without_blocks(changed) == text
    assert tomltext.with_value(changed, path, "/etc/certs.d") == changed
    before = tomllib.loads(text)
    for key in before.keys() - {"plugins"}:
        assert tables[key] == before[key]


HOSTS = st.lists(
    st.sampled_from(
        [
            'server = "https://quay.io"\n',
            "# the mirror of the office\n",
            '[host."https://office"]\ncapabilities = ["pull"]\n',
            '[host."https://other".header]\n  x = ["y"]\n',
            "[host]\n",
            "\n",
        ]
    ),
    max_size=5,
    unique=True,
).map("".join)


@given(HOSTS.filter(is_toml))
def test_a_host_comes_before_all_others(text: str) -> None:
    changed = tomltext.with_first_table(text, ("host", "http://mirror"), {"capabilities": ["pull", "resolve"]})
    hosts = tomllib.loads(changed)["host"]
    assert next(iter(hosts)) == "http://mirror"
    assert list(hosts)[1:] == list(tomllib.loads(text).get("host", {}))
    assert without_blocks(changed) == text


def test_a_remark_stays_with_the_table_that_it_is_of() -> None:
    text = '# all of it\n\n# the mirror of the office\n[host."https://office"]\n'
    changed = tomltext.with_first_table(text, ("host", "http://mirror"), {"capabilities": ["pull"]})
    assert changed.endswith('\n# the mirror of the office\n[host."https://office"]\n')
    assert changed.startswith("# all of it\n\n# shoal")


@pytest.mark.parametrize(
    "text",
    [
        'plugins = {"io.containerd.grpc.v1.cri" = {registry = {}}}\n',
        "[plugins]\n'io.containerd.grpc.v1.cri'.registry = {config_path = ''}\n",
        "plugins = 1\n",
        "[plugins\n",
        "a = [1,\n",
    ],
)
def test_what_cannot_be_changed_safely_is_left_alone(text: str) -> None:
    with pytest.raises(NotEditable):
        tomltext.with_value(text, (*REGISTRY, "config_path"), "/etc/certs.d")


def test_a_dotted_key_is_replaced_where_it_stands() -> None:
    text = "[plugins.'io.containerd.grpc.v1.cri']\nregistry.config_path = ''\nx = 1\n"
    changed = tomltext.with_value(text, (*REGISTRY, "config_path"), "/etc/certs.d")
    assert tomltext.at(tomllib.loads(changed), (*REGISTRY, "config_path")) == "/etc/certs.d"
    assert without_blocks(changed) == text


YAML = st.sampled_from(
    [
        "",
        "# nothing yet\n",
        "---\nconfigs:\n  quay.io:\n    auth: {username: me}\n",
        "mirrors:\n",
        "mirrors: {}\n",
        'mirrors: {docker.io: {endpoint: ["https://office"]}}  # in one line\nconfigs: {}\n',
        'mirrors:\n    docker.io:\n        endpoint:\n        - "https://office"\n        # last\n\nconfigs: {}\n',
        'mirrors:\n  docker.io:\n    endpoint: ["https://office"]\n    rewrite:\n      "^a": b\n  "*": {}\n',
        "mirrors:\n  # none\n  docker.io:\n  quay.io:\n    rewrite: {a: b}\n",
        "mirrors:\n  docker.io:\n    endpoint: |\n      https://office\n    rewrite: {a: b}\n",
        "configs: {}\nmirrors:\n  gcr.io:\n    endpoint:\n      - https://office\n# end\n",
    ]
)


@given(YAML, st.lists(st.sampled_from(["docker.io", "quay.io", "ghcr.io", "*"]), min_size=1, unique=True))
def test_lists_of_a_mapping_are_set_and_the_rest_stays(text: str, names: list[str]) -> None:
    lists = {name: ["http://mirror", "https://office"] for name in names}
    changed = yamltext.with_lists(text, "mirrors", "endpoint", lists)
    before = yaml.safe_load(text) or {}
    after = yaml.safe_load(changed)
    wanted = copy.deepcopy(before)
    wanted["mirrors"] = wanted.get("mirrors") or {}
    for name in names:
        wanted["mirrors"][name] = {**(wanted["mirrors"].get(name) or {}), "endpoint": lists[name]}
    assert after == wanted
    assert without_blocks(changed) == text
    assert yamltext.with_lists(changed, "mirrors", "endpoint", lists) == changed


@pytest.mark.parametrize("text", ["[]", "{a: b}", "mirrors: [a]\n", "a: [\n", "mirrors: &x {docker.io: [a]}\n"])
def test_yaml_that_cannot_be_changed_safely_is_left_alone(text: str) -> None:
    with pytest.raises(NotEditable):
        yamltext.with_lists(text, "mirrors", "endpoint", {"docker.io": ["http://mirror"]})


@given(st.text(), st.lists(st.text("ab =[]#", min_size=1)), st.text("ab\u2028\x0c\r"))
def test_a_block_is_taken_out_wherever_it_stands(before: str, lines: list[str], replaced: str) -> None:
    before = before.replace("shoal", "") + "\n"
    replaced = f"{replaced}\n" if replaced else ""
    assert without_blocks(before + block(lines, replaced) + before) == before + replaced + before


def test_a_block_without_an_end_is_no_reason_to_drop_what_follows() -> None:
    whole = block(["x = 1"])
    with pytest.raises(NotEditable, match="has no"):
        without_blocks(whole.replace("# shoal: end\n", "y = 2\n"))
