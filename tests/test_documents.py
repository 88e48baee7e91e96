"""YAML documents: their meaning, their places, what is refused and how fast."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestra.documents import Document, parse_document, read_document
from orchestra.errors import PipelineError, Problem


def read(text: str) -> Document:
    return read_document(Path("file.yaml"), text)


def value_of(text: str) -> Any:
    return read(f"a: {text}\n").value["a"]


def problem_of(text: str) -> Problem:
    with pytest.raises(PipelineError) as caught:
        read(text)
    return caught.value.problems[-1]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("n", "n"),
        ("12:30", "12:30"),
        ("1:20:30", "1:20:30"),
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1e", "1e"),
        ("=", "="),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("1.10", 1.1),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ('"true"', "true"),
        ("'12'", "12"),
        ('""', ""),
        ("!!str 12", "12"),
        ("[a, 1]", ["a", 1]),
        ("{b: c}", {"b": "c"}),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_values_mean_what_yaml_1_2_says(written: str, meant: object) -> None:
    value = value_of(written)
    assert value == meant
    assert type(value) is type(meant)


def test_the_meaning_is_the_same_without_the_c_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("yaml.CLoader")
    assert read("a: [on, 012, {b: 'c'}]\nb: &x {<<: {d: 1}}\ne: *x\n").value == {
        "a": ["on", 12, {"b": "c"}],
        "b": {"d": 1},
        "e": {"d": 1},
    }
    assert problem_of("[" * 40_000).code == "too-deep"
    assert problem_of("a: [b\nc: d\n").code == "yaml-syntax"


def test_keys_stay_strings() -> None:
    assert read("on: 1\n2: 3\ntrue: 4\n2026-01-01: 5\n").value == {"on": 1, "2": 3, "true": 4, "2026-01-01": 5}


def test_an_empty_document_is_none() -> None:
    document = read("# nothing\n")
    assert document.value is None
    assert document.locate("a").line == 1


class TestPlaces:
    text = "agents:\n  critic:\n    model: smart\n    tools: [a, b]\nlist:\n  - x: 1\n"

    @pytest.mark.parametrize(
        ("loc", "place"),
        [
            (("agents", "critic", "model"), (3, 12)),
            (("agents", "critic", "tools", 1), (4, 16)),
            (("list", 0, "x"), (6, 8)),
            (("agents", "critic", "missing"), (3, 5)),
            (("agents", "tag", "critic", "model"), (3, 12)),
            (("list", 7), (6, 3)),
            ((), (1, 1)),
        ],
    )
    def test_a_value_is_found_and_steps_that_are_not_there_are_skipped(
        self, loc: tuple[str | int, ...], place: tuple[int, int]
    ) -> None:
        found = read(self.text).locate(*loc)
        assert (found.line, found.column) == place

    def test_a_key_is_found(self) -> None:
        found = read(self.text).locate("agents", "critic", "missing", key=True)
        assert (found.line, found.column, found.text) == (2, 3, "  critic:")

    def test_columns_count_characters(self) -> None:
        assert read("{ä: 漢字, b: 😀, c: 1}").locate("c", key=True).column == 15

    def test_merged_values_are_found_where_they_stand(self) -> None:
        document = read(
            "base: &base\n  model: smart\ncritic:\n  <<: *base\n  task: x\nwriter:\n  <<: [*base, {z: 1}]\n"
        )
        assert document.value["critic"] == {"task": "x", "model": "smart"}
        assert document.value["writer"] == {"model": "smart", "z": 1}
        assert document.locate("critic", "model").line == 2

    def test_own_keys_win_over_merged_ones(self) -> None:
        assert read("a: &a {x: 1}\nb: {x: 2, <<: *a}\n").value["b"] == {"x": 2}

    def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(self) -> None:
        document = read("\ufeffa: 1\r\nb: 2\r\n")
        assert document.value == {"a": 1, "b": 2}
        assert document.locate("b").text == "b: 2"

    def test_a_scalar_as_written_is_kept(self) -> None:
        assert read("a: [012]\n").written("a", 0) == "012"


class TestRefused:
    def test_every_duplicate_key_is_named_with_both_lines(self) -> None:
        with pytest.raises(PipelineError) as caught:
            read("a: 1\nb: 2\na: 3\nb: 4\n")
        first, second = caught.value.problems
        assert first.location is not None
        assert (first.code, first.location.line) == ("duplicate-key", 3)
        assert "line 1" in first.message
        assert "line 2" in second.message

    def test_a_duplicate_key_leaves_the_rest_readable(self) -> None:
        document, problems = parse_document(Path("file.yaml"), "a: 1\na: 2\nb: 3\n")
        assert document.value == {"a": 1, "b": 3}
        assert [problem.code for problem in problems] == ["duplicate-key"]

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("a: !!python/object:os.system x", "yaml-tag"),
            ("a: !mine {b: 1}", "yaml-tag"),
            ("~: 1", "yaml-key"),
            ("[a]: 1", "yaml-key"),
            ("? {a: b}\n: 1", "yaml-key"),
            ("a: {{ x }}", "yaml-key"),
            ("a: &x 1\n*x : 2", "yaml-key"),
            ("a: {<<: 3}", "yaml-key"),
            ("a: *b", "yaml-alias"),
            ("a: &a [*a]", "yaml-alias"),
            ("a: .nan", "yaml-number"),
            ("a: 1e999", "yaml-number"),
            ("a: " + "9" * 5000, "yaml-number"),
            ("a: 1\n---\nb: 2", "yaml-syntax"),
            ("a: \x00", "yaml-syntax"),
            ("a: \ud800", "yaml-syntax"),
            ("%YAML 9\n---\na: 1", "yaml-syntax"),
            ("%TAG\n---\na: 1", "yaml-syntax"),
            ("a\n  b: [", "yaml-syntax"),
            ("\t", "yaml-syntax"),
        ],
    )
    def test_what_has_no_place_in_a_file_is_refused(self, text: str, code: str) -> None:
        problem = problem_of(text)
        assert problem.code == code
        assert problem.location is not None

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 40_000,
            "{" * 40_000,
            "[" * 20_000 + "]" * 20_000,
            "{a: " * 10_000,
            "- " * 20_000,
            "? " * 20_000,
            "a: " * 13_000,
            "&a " * 13_000,
            "!a " * 13_000,
            "'" * 39_999,
            "\n".join(" " * depth + "a:" for depth in range(280)),
        ],
    )
    def test_40_kilobytes_of_brackets_are_refused_at_once(self, text: str) -> None:
        started = time.process_time()
        problem_of(text)
        assert time.process_time() - started < 1

    def test_an_alias_bomb_is_refused_before_it_grows(self) -> None:
        names = "abcdefghij"
        text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
        for before, name in pairwise(names):
            text += f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
        assert problem_of(text).code == "yaml-alias"

    def test_aliases_are_counted(self) -> None:
        assert len(read("a: &a 1\nb: [" + "*a, " * 50 + "]\n").value["b"]) == 50
        assert problem_of("a: &a 1\nb: [" + "*a, " * 51 + "]\n").code == "yaml-alias"

    def test_aliases_can_not_nest_deeper_than_the_limit(self) -> None:
        text = "a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 30 + "*a" + "]" * 30 + "\n"
        assert problem_of(text).code == "too-deep"

    def test_depth_up_to_the_limit_is_read(self) -> None:
        assert read("[" * 40 + "]" * 40).value
        assert problem_of("[" * 41 + "]" * 41).code == "too-deep"

    def test_too_many_values_and_too_many_bytes_are_refused(self) -> None:
        started = time.process_time()
        assert problem_of("[" + "a," * 100_000 + "]").code == "too-large"
        assert problem_of("a: " + "x" * 2_000_000).code == "too-large"
        assert time.process_time() - started < 5


class TestFiles:
    def test_a_missing_file_has_near_names(self, tmp_path: Path) -> None:
        (tmp_path / "review.yaml").write_text("a: 1\n")
        with pytest.raises(PipelineError) as caught:
            read_document(tmp_path / "reveiw.yaml")
        assert (caught.value.code, caught.value.hint) == ("file-not-found", "did you mean 'review.yaml'?")

    def test_a_directory_and_a_pipe_are_no_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(PipelineError) as caught:
                read_document(path)
            assert caught.value.code == "file-not-found"

    def test_bytes_that_are_no_utf_8_have_a_place(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
        with pytest.raises(PipelineError) as caught:
            read_document(tmp_path / "a.yaml")
        assert caught.value.location is not None
        assert (caught.value.code, caught.value.location.line, caught.value.location.column) == ("not-utf8", 2, 4)

    def test_a_huge_file_is_not_read_whole(self, tmp_path: Path) -> None:
        with (tmp_path / "a.yaml").open("wb") as file:
            file.truncate(10**12)
        with pytest.raises(PipelineError) as caught:
            read_document(tmp_path / "a.yaml")
        assert caught.value.code == "too-large"

    def test_a_good_file_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("a: ä\n", encoding="utf-8")
        assert read_document(tmp_path / "a.yaml").value == {"a": "ä"}


def test_secrets_are_hidden_in_places() -> None:
    document = read("api_key: hunter2 and more\nx: sk-ant-api03-0123456789abcdef\nmax_tokens: 3\n")
    assert document.locate("api_key").text == "api_key: ***"
    assert document.locate("x").text == "x: ***"
    assert document.locate("max_tokens").text == "max_tokens: 3"
