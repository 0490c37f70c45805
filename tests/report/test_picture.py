from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from report_fakes import HOSTILE, confirmed, fake_findings, hostile

from paretune.report.picture import HEIGHT, WIDTH, front_svg

TAG = "{http://www.w3.org/2000/svg}"


def drawn(findings, folder):
    return ET.parse(front_svg(findings, folder / "front.svg")).getroot()


def texts(root):
    return [node.text for node in root.iter(f"{TAG}text")]


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_picture_says_what_is_drawn(objectives, tmp_path):
    findings = fake_findings(objectives)
    root = drawn(confirmed(findings, findings.front[0]), tmp_path)
    said = texts(root)
    assert {"tiny-cnn: top-1 error and size", "size (logarithmic)", "top-1 error", "dense", "knee"} <= set(said)
    assert {"10 kB", "100 kB", "5 %", "budget 30 kB", "confirmed on test", "uniform 8 bit"} <= set(said)
    assert root.find(f"{TAG}rect").get("fill") == "#fff"


def test_every_mark_is_inside_the_picture(tmp_path):
    places = [node.get("transform") for node in drawn(fake_findings(2), tmp_path).iter() if node.get("transform")]
    places = [place[10:-1].split() for place in places if place.startswith("translate")]
    assert len(places) > 40
    assert all(0 < float(x) < WIDTH and 0 < float(y) < HEIGHT for x, y in places)


def test_the_front_steps_right_before_it_steps_down(tmp_path):
    paths = [node.get("d") for node in drawn(fake_findings(2), tmp_path).iter(f"{TAG}path") if node.get("opacity")]
    commands = [letter for letter in paths[0] if letter.isalpha()]
    assert commands == ["M", *["H", "V"] * (len(fake_findings(2).front) - 1)]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_study_without_a_front_still_has_a_picture(kept, tmp_path):
    findings = fake_findings()
    assert "size" in " ".join(texts(drawn(replace(findings, trials=findings.trials[:kept]), tmp_path)))


def test_text_is_escaped(tmp_path):
    assert any(HOSTILE in said for said in texts(drawn(hostile(fake_findings()), tmp_path)))


def test_equal_findings_give_equal_pictures(tmp_path):
    first = front_svg(fake_findings(), tmp_path / "a.svg").read_bytes()
    assert first == front_svg(fake_findings(), tmp_path / "b.svg").read_bytes()
