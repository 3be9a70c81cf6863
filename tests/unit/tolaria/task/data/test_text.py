"""Text byte by byte: every file of a folder is a document; what is no text is refused in one line."""

from __future__ import annotations

import re
from glob import glob
from pathlib import Path

import pytest

from esper.core.errors import ConfigError, StorageError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Splits, open_source
from esper.tolaria.task.data.facts import doubts
from esper.tolaria.task.data.stream import SHORTEST_STRETCH
from esper.tolaria.task.data.text import BYTE, _places, found_files
from esper.tolaria.task.data.token_file import TokenFile
from esper.tolaria.task.randomness import generator


def load(place: Path | str, **settings: object) -> Splits:
    return open_source(TrainConfig(data=f"text:{place}", **{"context": 8, **settings})).splits(1)


def write(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def letters(splits: Splits) -> dict[str, set[str]]:
    """The characters that are in each set."""
    assert splits.stream is not None
    train = splits.stream.draw(3000, generator(1)).inputs
    sets = {"train": train, "judge": splits.judge.inputs, "test": splits.test.inputs}
    return {name: set(map(chr, tokens.unique().tolist())) for name, tokens in sets.items()}


def test_every_file_of_a_folder_is_a_document_of_one_set(tmp_path: Path) -> None:
    write(tmp_path, {f"part{number % 3}/{chr(97 + number)}.txt": chr(97 + number) * 50 for number in range(26)})
    sets = letters(load(tmp_path))
    assert sorted("".join(map("".join, sets.values()))) == list(map(chr, range(97, 123)))
    assert min(map(len, sets.values())) >= 3


def test_inputs_are_bytes_and_targets_those_that_follow(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.txt": "Größe\n" * 40 for number in range(30)})
    splits = load(tmp_path)
    assert splits.outputs == 256
    text = bytes(splits.judge.inputs[0].tolist()) + bytes(splits.judge.targets[0, -1:].tolist())
    assert text in ("Größe\n" * 3).encode()


def test_hidden_and_empty_files_are_left_out_and_a_pattern_leaves_out_others(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "x", "b/c.py": "y", "b/d.md": "z", "e.py": "", ".git/f.py": "no", ".hidden": "no"})
    assert found_files(str(tmp_path)) == [tmp_path / "a.py", tmp_path / "b/c.py", tmp_path / "b/d.md"]
    assert found_files(f"{tmp_path}/**/*.py") == [tmp_path / "a.py", tmp_path / "b/c.py"]


def test_a_file_without_marks_is_cut_into_stretches(tmp_path: Path) -> None:
    stretch = SHORTEST_STRETCH * 9
    text = "".join(chr(97 + number) * stretch for number in range(26))
    sets = letters(load(write(tmp_path, {"book.txt": text}) / "book.txt"))
    assert not sets["judge"] & sets["test"]
    assert not sets["train"] & (sets["judge"] | sets["test"])


def test_a_mark_divides_a_file_into_documents(tmp_path: Path) -> None:
    texts = [chr(97 + number) * (30 + number) for number in range(26)]
    book = write(tmp_path, {"book.txt": "<end>".join(texts)}) / "book.txt"
    sets = letters(load(book, document_mark="<end>"))
    whole = {name: found - set("<end>") for name, found in sets.items()}
    assert not whole["judge"] & whole["test"]
    assert not whole["train"] & (whole["judge"] | whole["test"])


def test_a_growing_run_may_ask_for_a_larger_judging_set(tmp_path: Path) -> None:
    book = write(tmp_path, {"book.txt": "some text " * 9000}) / "book.txt"
    assert load(book).sizes["judge"] == 512
    assert load(book, min_samples=600).sizes["judge"] == 600


@pytest.mark.parametrize(
    ("texts", "place", "settings", "says"),
    [
        ({}, "none", {}, "no such file or folder"),
        ({}, "", {}, "holds no text: 0 files"),
        ({"a": "", "b": ""}, "", {}, "holds no text: 2 files, all empty"),
        ({"a": ""}, "a", {}, "is an empty file"),
        ({"a": "text"}, "*.py", {}, "holds no text: 0 files"),
        ({"a": "a\0b" * 99}, "a", {}, r"holds no text: 1 file that isn't text \(zero bytes in it\): .*/a; give"),
        (
            {"a": "a\0b", "b": "\0"},
            "",
            {},
            r"holds no text: 2 files that aren't text \(zero bytes in it\): .*/a, .*/b; give",
        ),
        ({"a": "text"}, "a", {}, "too little"),
        ({"a": "text" * 99}, "a", {"document_mark": "|"}, "divides nothing"),
        ({"a": "text" * 99 + "|"}, "a", {"document_mark": "|"}, "divides nothing"),
        ({"a": "text" * 99}, "a", {"vocabulary": 300}, "means nothing to text:"),
        ({"a": "text" * 99}, "a", {"samples": 300}, "--steps"),
    ],
)
def test_what_is_no_text_is_one_clear_line(
    tmp_path: Path, texts: dict[str, str], place: str, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load(write(tmp_path, texts) / place, **settings)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text_are_left_out_and_told(tmp_path: Path) -> None:
    texts = {f"{number:02}.txt": f"text {number} " * 40 for number in range(30)}
    write(tmp_path / "alone", texts)
    write(tmp_path / "mixed", texts)
    (tmp_path / "mixed" / "15.png").write_bytes(b"\x89PNG\r\n\0" * 60)
    (tmp_path / "mixed" / "late.bin").write_bytes(b"x" * 5000 + b"\0")
    splits = load(tmp_path / "mixed")
    assert splits.digest() == load(tmp_path / "alone").digest()
    told = doubts(splits, is_guessed=False)
    names = ", ".join(str(tmp_path / "mixed" / name) for name in ("15.png", "late.bin"))
    assert told == [f"skipped 2 files that aren't text (zero bytes in it): {names}"]
    assert doubts(load(tmp_path / "alone"), is_guessed=False) == []


def test_of_many_files_that_are_no_text_the_first_are_named_and_all_counted(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "text " * 400, **{f"{number}.bin": "\0" for number in range(7)}})
    (told,) = load(tmp_path).doubts
    assert told.startswith("skipped 7 files that aren't text")
    assert told.endswith("4.bin, 2 more")


def test_a_place_without_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected text:PATH"):
        load("")


def linked(folder: Path) -> Path:
    """Texts, with links to a folder above, to a text, and a second name of one."""
    write(folder, {f"{number}.txt": f"text {number}" for number in range(3)})
    write(folder, {"sub/a.txt": "more"})
    (folder / "sub" / "loop").symlink_to("..")
    (folder / "sub" / "loop2").symlink_to("..")
    (folder / "0again.txt").symlink_to("1.txt")
    (folder / "sub" / "hard.txt").hardlink_to(folder / "2.txt")
    return folder


@pytest.mark.parametrize("pattern", ["", "**/*.txt", "**", "**/**/*.txt", "sub/../**/*.txt"])
def test_each_text_is_read_once_however_many_links_lead_to_it(tmp_path: Path, pattern: str) -> None:
    found = found_files(str(linked(tmp_path) / pattern))
    assert [file.resolve() for file in found] == [tmp_path / name for name in ("0.txt", "1.txt", "2.txt", "sub/a.txt")]
    assert not any(file.is_symlink() for file in found)


def test_a_pattern_may_name_folders_behind_links_and_reads_them_once(tmp_path: Path) -> None:
    found = found_files(f"{linked(tmp_path)}/sub/*/*.txt")
    assert sorted(file.resolve().name for file in found) == ["0.txt", "1.txt", "2.txt"]


@pytest.mark.parametrize("pattern", ["src/*.py", "src/**/*.py", "src/**/a*", "s*/**/*.py", "src/**", "**/deep/*.py"])
def test_patterns_find_what_they_say_and_nothing_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    names = ["src/a.py", "src/deep/a.py", "src/deep/er/a.py", "src/.git/a.py", "src/deep/.a.py", "a.py", "src/[x]/a.py"]
    write(tmp_path, {name: name for name in names})
    monkeypatch.chdir(tmp_path)
    assert found_files(pattern) == sorted(path for path in map(Path, glob(pattern, recursive=True)) if path.is_file())


@pytest.mark.parametrize("place", ["", "gone.txt", "*.txt", "**/*.txt"])
def test_a_link_that_leads_nowhere_is_told_with_where_it_leads(tmp_path: Path, place: str) -> None:
    write(tmp_path, {"a.txt": "text" * 99})
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    with pytest.raises(ConfigError, match=r"gone\.txt': is a link to nowhere\.txt, where nothing is; remove the link"):
        load(tmp_path / place)


def test_marks_are_found_across_the_pieces_in_which_a_text_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "aa<end>b<end><end>ccc" * 40
    for chunk in (1, 2, 3, 5, 7, 2**24):
        monkeypatch.setattr("esper.tolaria.task.data.text.CHUNK", chunk)
        with (write(tmp_path, {"book": whole}) / "book").open("rb") as file:
            tokens = TokenFile(file, "book", BYTE)
        assert list(_places(tokens, b"<end>")) == [found.start() for found in re.finditer("<end>", whole)]


def test_a_text_that_is_changed_during_the_run_ends_it_in_a_line(tmp_path: Path) -> None:
    book = write(tmp_path, {"book.txt": "some text " * 9000}) / "book.txt"
    splits = load(book)
    assert splits.stream is not None
    with book.open("a") as file:
        file.write("more")
    with pytest.raises(StorageError, match=r"data text:.*book\.txt changed .* had 90,000 bytes, now 90,004; restore"):
        splits.stream.draw(4, generator(1))


def test_texts_of_a_folder_are_kept_as_they_were_read(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.txt": f"text {number} " * 40 for number in range(30)})
    splits = load(tmp_path)
    assert splits.stream is not None
    before = splits.digest()
    (tmp_path / "3.txt").unlink()
    write(tmp_path, {"5.txt": "changed"})
    assert splits.digest() == before
