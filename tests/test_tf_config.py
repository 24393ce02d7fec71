"""TF_CONFIG: what is refused before anything opens, word for word."""

import json
import socket

import pytest

from meshlang.errors import ClusterError
from meshlang.tf_config import ClusterSpec, check_port, from_environment, parse

FIX = (
    "  fix: TF_CONFIG='"
    '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
    "'"
)
TWO = {"worker": ["a:1", "b:2"]}
FIRST = {"type": "worker", "index": 0}


def config(cluster: object = TWO, task: object = FIRST) -> str:
    return json.dumps({"cluster": cluster, "task": task})


@pytest.mark.parametrize(
    ("text", "headline", "row"),
    [
        ('["a:1"]', "TF_CONFIG is no JSON object.", '["a:1"]'),
        (config(["a:1"]), "'cluster' of TF_CONFIG is no JSON object.", '["a:1"]'),
        (
            config({"ps": ["a:1"]}),
            "TF_CONFIG has a job that meshlang does not know: 'ps'.",
            '{"ps": ["a:1"]}',
        ),
        (config({"worker": "a:1"}), "job 'worker' of TF_CONFIG is no list of addresses.", '"a:1"'),
        (config({"worker": []}), "job 'worker' of TF_CONFIG is no list of addresses.", "[]"),
        (
            config({"worker": ["a"]}),
            "job 'worker' of TF_CONFIG has an address that is none.",
            '"a"',
        ),
        (
            config({"worker": ["a:1", "b:70000"]}),
            "job 'worker' of TF_CONFIG has an address that is none.",
            '"b:70000"',
        ),
        (
            config({"worker": ["a:1", "b:2", "a:1"]}),
            "two tasks of TF_CONFIG have the same address.",
            '"a:1"',
        ),
        (
            json.dumps({"cluster": TWO}),
            "TF_CONFIG does not say which task this is.",
            '{"task": null}',
        ),
        (
            config(task={"type": "chief", "index": 0}),
            "TF_CONFIG has no job 'chief', and this task is of it.",
            '{"task": {"type": "chief", "index": 0}}',
        ),
        (
            config(task={"type": "worker", "index": 2}),
            "TF_CONFIG has no task 2 of 'worker': there are 2.",
            '{"task": {"type": "worker", "index": 2}}',
        ),
        (
            config(task={"type": "worker", "index": True}),
            "the index of TF_CONFIG's task is no number.",
            '{"task": {"type": "worker", "index": true}}',
        ),
    ],
)
def test_what_is_malformed_is_quoted(text: str, headline: str, row: str) -> None:
    with pytest.raises(ClusterError) as error:
        parse(text)
    assert str(error.value) == f"{headline}\n  given  {row}\n{FIX}"


def test_text_that_is_not_json_is_shown_where_it_breaks() -> None:
    with pytest.raises(ClusterError) as error:
        from_environment({"TF_CONFIG": "{'cluster': 1}"})
    assert str(error.value) == (
        "TF_CONFIG is not JSON.\n"
        "  at    character 1: Expecting property name enclosed in double quotes\n"
        "  near  \"{'cluster': 1}\"\n" + FIX
    )


def test_what_tools_write() -> None:
    assert from_environment({}) is None
    assert from_environment({"TF_CONFIG": " "}) is None
    assert parse('{"task": {"type": "worker", "index": 0}}') is None
    assert parse(config(task={"type": "worker", "index": "1"})) == ClusterSpec(("a:1", "b:2"), 1)
    with_chief = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    spec = parse(config(with_chief, {"type": "worker", "index": 1}))
    assert spec == ClusterSpec(("c:3", "a:1", "b:2"), 2)
    assert parse(spec.text()) == spec


def test_a_port_that_another_program_has() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ClusterError) as error:
            check_port(ClusterSpec((f"localhost:{port}", "b:2"), 0))
    assert str(error.value) == (
        f"port {port} is in use.\n"
        f"  address  localhost:{port}\n"
        "  reason   Address already in use\n"
        "  fix: end the program that has it, or name another port in TF_CONFIG"
    )
    check_port(ClusterSpec((f"localhost:{port}", "b:2"), 0))
