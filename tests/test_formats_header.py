"""Headers and provenance."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drstool.artifacts.header import KINDS, Header, json_bytes, record_type
from drstool.artifacts.job import Job
from drstool.artifacts.provenance import merge, without_home
from drstool.errors import InputError
from drstool.labels import is_object_name

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8).filter(
    lambda name: name.strip() and is_object_name(name)
)


@given(st.sampled_from(sorted(KINDS)), st.lists(names, min_size=1, max_size=5, unique=True))
def test_a_header_survives_json(kind, class_names):
    header = Header(kind, tuple(class_names), ({"command": "x", "seed": 1},))
    assert Header.from_json(json_bytes(header.to_json()), "here") == header
    assert record_type(kind) in ("maps", "labels", "figures", "gallery", "export", "dataset")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "other"}, "drstool"),
        ({"version": 2}, "newer drstool"),
        ({"version": "1"}, "an invalid format version"),
        ({"version": True}, "an invalid format version"),
        ({"kind": "cats"}, "unknown kind"),
        ({"kind": ["labels"]}, "unknown kind"),
        ({"class_names": []}, "no object class"),
        ({"class_names": "cat"}, "no list of class names"),
        ({"class_names": ["cat", "cat"]}, "twice"),
        ({"class_names": [1]}, "empty class name"),
        ({"class_names": None}, "no list of class names"),
        ({"provenance": "me"}, "provenance"),
        ({"provenance": ["me"]}, "provenance"),
    ],
)
def test_a_bad_header_is_told(change, told):
    with pytest.raises(InputError, match=told) as caught:
        Header.from_json(Header("labels", ("cat",)).to_json() | change, "x.tar")
    assert str(caught.value).startswith("x.tar: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_header_is_told(text):
    with pytest.raises(InputError):
        Header.from_json(text, "x")


def test_saliency_needs_no_classes():
    assert Header.from_json(Header("saliency", ()).to_json(), "x").class_names == ()


def test_an_undecodable_path_still_makes_json():
    assert json.loads(json_bytes({"image": "a\udcff.jpg"}))["image"] == "a\udcff.jpg"


def test_an_entry_names_the_step_and_no_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    job = Job(
        "cam",
        device="cpu",
        seed=3,
        inputs={"/home/ada/c.pt": "sha256:0"},
        used={"tags": True},
        settings={"sizes": (256, 320), "file": "/home/ada/x", "other": "/mnt/home/ada/x"},
    )
    step = job.entry(["/home/ada/venv/bin/drstool", "cam", "--data=/home/ada/my voc", "-o", "m.h5"])
    assert step["command"].startswith("drstool cam") and "~/my voc" in step["command"]
    assert step["settings"] == {"sizes": [256, 320], "file": "~/x", "other": "/mnt/home/ada/x"}
    assert step["inputs"] == {"~/c.pt": "sha256:0"}
    assert step["time"].endswith("Z") and step["program"] == "drstool" and step["seed"] == 3
    assert json.loads(json.dumps(step)) == step


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada", "~"),
        ("/home/ada/", "~/"),
        ("/home/adams/x", "/home/adams/x"),
        ("--a=/home/ada:/home/ada/b", "--a=~:~/b"),
        ("x", "x"),
    ],
)
def test_only_the_home_folder_itself_is_shortened(monkeypatch, text, shown):
    monkeypatch.setenv("HOME", "/home/ada")
    assert without_home(text) == shown


def test_chains_merge_in_order_without_repeats():
    a, b, c = {"n": 1}, {"n": 2}, {"n": 3}
    assert merge([a, b], (), (x for x in [a, c])) == (a, b, c)
    assert merge() == ()
