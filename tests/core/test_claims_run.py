"""Claims from a module to their files: found again, judged, failing one by one, in one process and in several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deltatune.core.claims.installed import load_claims, select
from deltatune.core.claims.reproduction import Request, carry_out, plan
from deltatune.core.cli import main as deltatune
from deltatune.core.errors import DeltatuneError
from deltatune.core.run import read_records

KEYS = {
    "id", "paper", "statement", "source", "paper_value", "effect", "ci_low", "ci_high", "unit", "bound", "rule", "gate",
    "controls", "seeds", "n_units", "verdict", "tier", "seconds", "command", "config_digest",
}  # fmt: skip

TOY = """
import os, time
from pathlib import Path
from deltatune.core.claims import CannotRunError, Claim, Control, Effects, Figure, Gate

LOG = Path(os.environ["TOY_LOG"])

def log(line):
    with LOG.open("a", encoding="utf-8") as file:
        file.write(line + "\\n")

def shared(context, seed):
    def make():
        log(f"shared {seed}")
        return [seed, 0.1 * (seed % 3)]
    return context.store.get({"what": "shared", "seed": seed}, make)[1]

def helps(context, seed, effect=5.0):
    log(f"helps {seed}")
    time.sleep(float(os.environ.get("TOY_SLEEP", 0)))
    noise = shared(context, seed)
    return Effects(effect + noise, {"random": 2.0 + noise}, {"solved": 90.0}, [{"x": x, "y": effect * x} for x in range(3)])

def harms(context, seed):
    return helps(context, seed, -5.0)

def gated(context, seed):
    return Effects(5.0 + shared(context, seed), {"random": 1.0}, {"solved": 50.0})

def breaks(context, seed):
    log(f"breaks {seed}")
    raise ZeroDivisionError("by [bold]nothing[/bold]")

def absent(context, seed):
    raise CannotRunError("needs a model that is not here")

def dies(context, seed):
    os._exit(9)

def by_task(context, seed):
    noise = shared(context, seed)
    effect = {"a": 4.0 + noise, "b": 5.0 - noise, "c": 6.0}
    return Effects(effect, {"random": {"a": 1.0 + noise, "b": 2.0, "c": 1.5}}, {"solved": 90.0})

def draw(figure, records):
    figure.subplots().plot([r["x"] for r in records], [r["y"] for r in records])

def draw_badly(figure, records):
    raise KeyError("z")

def claim(id, run, **more):
    more = {"tier": "headline", **more}
    return Claim(id, "toy", f"It {run.__name__} <i>& so on</i>", "section 1", "after minus before", run,
                 (Control("random", "better than random"),), (Gate("solved", "sources solve > 80%", 80.0),), **more)

ALL = (
    claim("C1", helps, paper_value="about 5", figures=(Figure("line", "A line.", draw), Figure("bad", "None.", draw_badly))),
    claim("C2", harms),
    claim("C3", gated),
    claim("C4", breaks),
    claim("C5", absent),
    claim("C6", helps, tier="all", seeds=3, cost=2.0),
    claim("C7", by_task, resampled="cluster"),
    claim("C8", dies, tier="all"),
)
CLAIMS = ALL
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """`toy(*ids)`: a request for the claims of a module of its own; `toy.log()`: what its experiments did."""
    (tmp_path / "src").mkdir()
    name = f"toy_claims_{abs(hash(str(tmp_path)))}"
    (tmp_path / "src" / f"{name}.py").write_text(TOY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))

    def request(*only, **fields):
        return Request({"toy": name}, only=only, **fields)

    request.log = lambda: (tmp_path / "log").read_text(encoding="utf-8").split("\n")[:-1] if (tmp_path / "log").exists() else []
    request.module = name
    return request


def run(request, folder, workers=1, report=lambda done: None):
    claims = carry_out(plan(request), folder, workers, {"command": "toy"}, "", report)
    return {claim["id"]: claim for claim in claims}


def test_the_longest_claim_starts_first(toy):
    assert [(unit.claim.id, unit.seed) for unit in plan(toy("C1", "C6", seeds=2)).units] == [
        ("C6", 0), ("C6", 1), ("C1", 0), ("C1", 1),
    ]  # fmt: skip


def test_each_verdict_comes_from_its_experiment(toy, tmp_path):
    found = run(toy(), tmp_path / "out")
    assert {name: claim["verdict"] for name, claim in found.items()} == {
        "C1": "reproduced", "C2": "contradicted", "C3": "void", "C4": "not run", "C5": "not run", "C6": "not run",
        "C7": "reproduced", "C8": "not run",
    }  # fmt: skip
    assert found["C1"]["effect"] == pytest.approx(5.08)
    assert found["C1"]["ci_low"] < 5.08 < found["C1"]["ci_high"]
    assert found["C3"]["reason"] == "the gate failed: sources solve > 80%"
    assert found["C4"]["reason"] == "ZeroDivisionError: by [bold]nothing[/bold]"
    assert [found[name]["failed"] for name in ("C4", "C5", "C6")] == [True, False, False]
    assert found["C6"]["reason"] == "it is not one of the headlines; --all runs it"
    assert found["C7"]["n_units"] == 3
    # After its first failure a claim is left alone.
    assert toy.log().count("breaks 0") == 1
    assert "breaks 1" not in toy.log()


def test_the_objects_are_complete_and_lie_on_disk(toy, tmp_path):
    found = run(toy(), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "claims.json").read_text(encoding="utf-8"))
    assert written == list(found.values())
    for claim in written:
        assert set(claim) >= KEYS
        assert claim["controls"]
        assert {"name", "effect", "ci_low", "ci_high"} <= set(claim["controls"][0])
    assert found["C1"]["command"] == "deltatune-toy reproduce --only C1 --seeds 5 --seed_offset 0"
    assert found["C1"]["seeds"] == [0, 1, 2, 3, 4]
    lines = read_records(tmp_path / "out")
    assert sum(line["kind"] == "effects" and line["claim"] == "toy/C1" for line in lines) == 5
    assert sum(line["kind"] == "record" and line["claim"] == "toy/C1" for line in lines) == 15
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["status"] == "finished"


def test_a_figure_is_drawn_and_one_that_fails_says_so(toy, tmp_path):
    found = run(toy("C1"), tmp_path / "out")
    drawn, failed = found["C1"]["figures"]
    assert (tmp_path / "out" / drawn["file"]).read_bytes().startswith(b"\x89PNG")
    assert failed == {"error": "KeyError: 'z'", "caption": "None."}


def test_what_was_measured_is_found_again(toy, tmp_path):
    first = run(toy("C1", "C4"), tmp_path / "out")
    before = toy.log()
    again = []
    second = run(toy("C1", "C4"), tmp_path / "out", report=again.append)
    # Only the failure is tried again.
    assert toy.log() == [*before, "breaks 0"]
    assert sum(done.found for done in again) == 5
    assert second["C1"] == first["C1"]


def test_shared_results_are_made_once(toy, tmp_path):
    run(toy("C1", "C2", "C7"), tmp_path / "out")
    assert sorted(line for line in toy.log() if line.startswith("shared")) == [f"shared {seed}" for seed in range(5)]


@pytest.mark.usefixtures("two_cores")
def test_several_processes_find_what_one_finds(toy, tmp_path):
    wanted = toy("C1", "C2", "C4", seeds=2)
    alone, together = run(wanted, tmp_path / "a"), run(wanted, tmp_path / "b", workers=2)
    timed = {"seconds"}
    for name, claim in alone.items():
        assert {k: v for k, v in together[name].items() if k not in timed} == {k: v for k, v in claim.items() if k not in timed}


@pytest.mark.usefixtures("two_cores")
def test_a_process_that_dies_is_reported_and_takes_no_result_with_it(toy, tmp_path):
    found = run(toy("C8", "C1", seeds=2), tmp_path / "out", workers=2)
    assert found["C8"]["verdict"] == "not run"
    assert "worker process was ended" in found["C8"]["reason"]
    assert found["C8"]["failed"]
    assert [unit["seed"] for unit in found["C1"]["per_seed"]] == [0, 1]


def test_seeds_are_those_asked_for(toy, tmp_path):
    found = run(toy("C1", seeds=2, seed_offset=7), tmp_path / "out")
    assert found["C1"]["seeds"] == [7, 8]
    assert [unit["seed"] for unit in found["C1"]["per_seed"]] == [7, 8]
    assert found["C1"]["command"].endswith("--seeds 2 --seed_offset 7")


def test_changed_code_is_measured_anew(toy, tmp_path, monkeypatch):
    from deltatune.core.claims import installed

    run(toy("C1", seeds=2), tmp_path / "out")
    source = tmp_path / "src" / f"{toy.module}.py"
    source.write_text(source.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    installed.code_digest.cache_clear()
    run(toy("C1", seeds=2), tmp_path / "out")
    assert toy.log().count("helps 0") == 2
    assert toy.log().count("shared 0") == 1


def test_the_claims_to_run_are_chosen_by_tier_and_name(toy):
    claims = load_claims("toy", toy.module)
    assert [c.id for c in select(claims, False, [])] == ["C1", "C2", "C3", "C4", "C5", "C7"]
    assert len(select(claims, True, [])) == 8
    assert [c.id for c in select(claims, False, ["toy/C6", "C1"])] == ["C1", "C6"]
    drafts = [replace(claims[0], draft=True), claims[1]]
    assert [[c.id for c in select(drafts, every, only)] for every, only in ((True, []), (False, ["C1"]))] == [["C2"], ["C1"]]
    with pytest.raises(DeltatuneError, match=r"--only toy/c1: there is no such claim; did you mean toy/C1\?"):
        select(claims, False, ["toy/c1"])


def test_other_folders_and_numbers_are_refused(toy, tmp_path):
    run(toy("C1", seeds=2), tmp_path / "out")
    with pytest.raises(DeltatuneError, match="holds another run"):
        run(toy("C1", seeds=3), tmp_path / "out")
    with pytest.raises(DeltatuneError, match="--seeds must be at least 1, got 0"):
        toy(seeds=0)
    with pytest.raises(DeltatuneError, match="--seed_offset must be at least 0, got -1"):
        toy(seed_offset=-1)
    with pytest.raises(DeltatuneError, match="--workers must be at least 1, got 0"):
        run(toy("C1"), tmp_path / "other", workers=0)
    with pytest.raises(DeltatuneError, match=r"--workers 1000: \d+ cores are here"):
        run(toy("C1"), tmp_path / "other", workers=1000)
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("workers", [1, 2])
def test_after_ctrl_c_the_same_command_goes_on(toy, tmp_path, workers):
    code = (
        "import signal, sys; from pathlib import Path; from deltatune.core import pool\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background\n"
        "from deltatune.core.claims.reproduction import *; pool.cores = lambda: 2\n"
        "if __name__ == '__main__':\n"
        f"    planned = plan(Request({{'toy': {toy.module!r}}}, only=('C1',), seeds=6))\n"
        f"    carry_out(planned, Path(sys.argv[1]), {workers}, {{}}, '', print)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "TOY_SLEEP": "0.4"}
    process = subprocess.Popen([sys.executable, script, tmp_path / "out"], env=environment, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    stored = tmp_path / "out" / "store"
    deadline = time.monotonic() + 60
    while len(list(stored.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode != 0
    assert said.count("Traceback") == 1, said
    kept = [file for file in stored.glob("*.json") if '"claim"' in file.read_text(encoding="utf-8")]
    assert 1 <= len(kept) < 6
    found = []
    assert run(toy("C1", seeds=6), tmp_path / "out", report=found.append)["C1"]["verdict"] == "reproduced"
    assert sum(done.found for done in found) == len(kept)


def test_a_claim_of_another_paper_is_refused(toy):
    with pytest.raises(DeltatuneError, match="toy/C1 is not of the paper other"):
        load_claims("other", toy.module)


def test_the_command_prints_and_tells_failures_by_its_code(toy, tmp_path, monkeypatch, capsys):
    from deltatune.core.claims import installed

    monkeypatch.setattr(installed, "sources", lambda: {"toy": toy.module, "empty": "no_such_module_anywhere"})
    words = ["reproduce", "--workers", "1", "--seeds", "2", "--out_dir", str(tmp_path / "out")]
    assert deltatune([*words, "--only", "C1,C4"]) == 1
    said = capsys.readouterr()
    assert "empty has no claims in version" in said.out
    assert "1 inconclusive, 1 not run" in said.out or "1 reproduced, 1 not run" in said.out
    assert "toy/C1 seed 0: " in said.err
    assert "left" in said.err
    assert deltatune([*words[:-1], str(tmp_path / "fine"), "--only", "C1,C5"]) == 0
    capsys.readouterr()
    page = (tmp_path / "fine" / "report.html").read_bytes()
    (tmp_path / "fine" / "report.html").unlink()
    assert deltatune(["report", "--run", str(tmp_path / "fine")]) == 0
    assert (tmp_path / "fine" / "report.html").read_bytes() == page
    assert "toy" in capsys.readouterr().out


def test_the_default_folder_is_named_by_the_request(toy, tmp_path, monkeypatch, capsys):
    from deltatune.core.claims import installed

    monkeypatch.setattr(installed, "sources", lambda: {"toy": toy.module})
    monkeypatch.chdir(tmp_path)
    for seeds in ("2", "2", "3"):
        assert deltatune(["reproduce", "--workers", "1", "--only", "C1", "--seeds", seeds]) == 0
    assert len([path for path in Path("runs").iterdir() if path.name.startswith("reproduce-")]) == 2
    capsys.readouterr()
