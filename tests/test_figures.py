import dataclasses
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import common
import cost
import fixed_point
import pytest
import scoring
import table2
import table3
from PIL import Image

import lvae_min
from lvae_min import cli, data, metrics, plots
from lvae_min.config import Config
from lvae_min.evaluation import evaluate
from lvae_min.losses import OBJECTIVES
from lvae_min.train import Run

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["fig1", "fig2", "fig3", "fig4", "table2", "table3", "fixed_point", "keep", "scoring"]


def make_run(
    folder, model="lvae", beta=2.0, seed=0, batch_size=64, score=0.5, rec=20.0, kl=5.0, found=None, **settings
):
    """A finished run of 2,000 iterations, without networks."""
    name = f"{model}-{beta:g}-{seed}-{batch_size}-{score}"
    file = folder / name / "results.json"
    file.parent.mkdir(parents=True)
    scores = dict(zip(table2.COLUMNS, (rec, 0.9, 0.6, 0.5, 0.4, 0.3, 0.2), strict=True))
    rec_mean = scores.pop("rec_mean")
    scores |= {"rec": rec_mean + 3, "sap": 0.7}
    settings = {
        "dataset": "dsprites",
        "model": model,
        "iterations": 2000,
        "schedule": 2000,
        "rate": Config(iterations=2000).rate,
        "warmup": "linear",
        "select": "last",  # so that titles name none; what `selected` says below is another's
        **OBJECTIVES[model].controls,
        "latents": 5,
        "batch_size": batch_size,
        "beta": beta,
        "seed": seed,
        **settings,
    }
    learned = {"sigma_0": 0.01, "sigma_1": -0.02} if model == "lvae" else {}
    kl_at_the_end = settings.pop("kl_at_the_end", 5.0)
    file.write_text(
        json.dumps(
            {
                "scores": {"kl": kl, "beta": found or beta, **scores},
                "rec_mean": rec_mean,
                "images": 10_000,
                "bins": 10,
                "collapsed": False,
                "settings": settings,
                "commit": "abc",
                "selected": {"iteration": 1000, "by": "validation beta_vae", "score": score},
                "device": "a CPU",
                "threads": 1,
                "versions": {"torch": "2.13.0"},
                "seconds": 120,
                "equilibrium": {"rec": 20.0, "kl": kl_at_the_end, "residuals": learned, "transient": False},
            }
        )
    )
    lines = [
        {
            "step": step,
            "rec": 50.0 - step / 100,
            "kl": 5.0,
            "beta": 2.0,
            "sigma_0": 1.5,
            "sigma_1": 1.1,
            **({"validation": {"rec": 30.0, "kl": 5.0, "beta_vae": step / 2000}} if step % 200 == 0 else {}),
        }
        for step in range(100, 2001, 100)
    ]
    (file.parent / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file.parent


def test_the_best_validation_score_selects_a_run_a_seed_and_nan_never(tmp_path):
    for batch_size, score in ((32, 0.7), (64, 0.9), (128, 0.9), (256, math.nan)):
        make_run(tmp_path, "vae", batch_size=batch_size, score=score)
    make_run(tmp_path, "vae", seed=1, score=0.1)
    chosen = common.selected(common.read(tmp_path))
    assert [(run["seed"], run.results["selected"]["score"]) for run in chosen] == [(0, 0.9), (1, 0.1)]
    assert chosen[0]["batch_size"] == 128  # the first of equal ones, by name


def test_of_runs_that_take_the_last_network_the_one_with_the_best_validation_score_counts(tmp_path):
    for batch_size, score in ((32, 0.4), (64, 0.3)):
        file = make_run(tmp_path, "vae", batch_size=batch_size, select="last") / "results.json"
        results = json.loads(file.read_text())
        results["selected"] = {"iteration": 2000, "by": "last iteration", "score": 2000}
        file.write_text(json.dumps(results))
        lines = (file.parent / "log.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        last["validation"]["beta_vae"] = score
        (file.parent / "log.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    assert [run["batch_size"] for run in common.selected(common.read(tmp_path))] == [32]


def test_settings_of_a_controller_that_are_not_the_usual_make_a_row_of_their_own(tmp_path):
    make_run(tmp_path, "control-vae")
    make_run(tmp_path, "control-vae", score=0.6, kl_target=5.0)
    (methods,) = table2.groups(common.read(tmp_path)).values()
    assert list(methods) == ["ControlVAE", "ControlVAE, kl_target 5"]


def test_a_run_whose_score_is_nan_loses_even_if_it_comes_first(tmp_path):
    make_run(tmp_path, "vae", batch_size=128, score=math.nan)
    make_run(tmp_path, "vae", batch_size=32, score=0.2)
    assert common.selected(common.read(tmp_path))[0]["batch_size"] == 32


def test_table_2_marks_best_and_second_and_sets_the_paper_in_brackets(tmp_path):
    for model, rec in (("vae", 10.0), ("lvae", 12.004), ("sigma-vae", 12.0), ("control-vae", 30.0)):
        make_run(tmp_path, model, rec=rec)
        make_run(tmp_path, model, rec=rec, seed=1, kl=6.0)
    text = table2.markdown(table2.groups(common.read(tmp_path)))
    assert "**10.00 ± 0.00** (12.46)" in text and "| <u>12.00 ± 0.00</u> (21.14)" in text
    assert "<u>12.00 ± 0.00</u> (29.21)" in text and "| 30.00 ± 0.00 (28.00)" in text
    assert "| L-VAE | 2 | 64 at 1,000 | 2.00 ± 0.00 | 5.50 ± 0.71 |" in text
    tex = table2.latex(table2.groups(common.read(tmp_path)))
    assert r"\textbf{10.00 $\pm$ 0.00} (12.46)" in tex and r"\underline{12.00 $\pm$ 0.00} (21.14)" in tex


@pytest.mark.parametrize("more", [{"seed": 1}, {"batch_size": 32, "score": 0.1}])
def test_a_method_with_other_seeds_or_candidates_is_not_compared(tmp_path, more):
    for model, rec in (("vae", 10.0), ("lvae", 12.0), ("sigma-vae", 13.0), ("control-vae", 9.0)):
        make_run(tmp_path, model, rec=rec)
    make_run(tmp_path, "control-vae", rec=9.0, **more)
    text = table2.markdown(table2.groups(common.read(tmp_path)))
    assert "| **10.00** (12.46)" in text and "| <u>12.00</u> (21.14)" in text
    assert (
        "<u>" not in re.search(r"ControlVAE.*", text)[0] and "**" not in re.search(r"ControlVAE.*", text)[0]
    )
    make_run(tmp_path, "vae", rec=9.0, **more)
    text = table2.markdown(table2.groups(common.read(tmp_path)))
    assert "<u>" not in text and text.count("**") == 2  # two pairs: the title alone


def test_a_method_with_as_many_runs_of_another_seed_is_not_compared(tmp_path):
    for model in ("vae", "lvae", "sigma-vae"):
        make_run(tmp_path, model)
    make_run(tmp_path, "control-vae", seed=1)
    (methods,) = table2.groups(common.read(tmp_path)).values()
    assert list(table2.comparable(methods)) == ["VAE", "sigma-VAE", "L-VAE"]


def test_beta_2_and_4_are_two_candidates(tmp_path):
    for model in ("vae", "lvae", "sigma-vae", "beta-vae"):
        make_run(tmp_path, model)
    (methods,) = table2.groups(common.read(tmp_path)).values()
    assert len(table2.comparable(methods)) == 4
    make_run(tmp_path, "beta-vae", beta=4.0)
    (methods,) = table2.groups(common.read(tmp_path)).values()
    assert list(table2.comparable(methods)) == ["VAE", "sigma-VAE", "L-VAE"]


@pytest.mark.parametrize("betas, paper", [((2.0, 2.0), True), ((4.0, 4.0), False), ((2.0, 4.0), False)])
def test_the_papers_beta_vae_stands_beside_its_own_beta_alone(tmp_path, betas, paper):
    for seed, beta in enumerate(betas):
        make_run(tmp_path, "beta-vae", beta=beta, seed=seed)
    text = table2.markdown(table2.groups(common.read(tmp_path)))
    assert ("(25.04)" in text) == paper and ("(0.97)" in text) == paper


def test_table_2_names_the_batch_of_each_seed_where_they_differ(tmp_path):
    for seed, batch_size in ((0, 64), (1, 32), (2, 64)):
        make_run(tmp_path, "vae", seed=seed, batch_size=batch_size)
    assert "| VAE | 3 | 64 at 1,000, 32 at 1,000, 64 at 1,000 |" in table2.markdown(
        table2.groups(common.read(tmp_path))
    )


def test_table_2_searches_the_betas_of_the_paper_alone(tmp_path):
    for beta, score in ((1.39, 0.99), (2.0, 0.5), (4.0, 0.7)):
        make_run(tmp_path, "beta-vae", beta=beta, score=score)
    (methods,) = table2.groups(common.read(tmp_path)).values()
    assert [run["beta"] for run in methods["beta-VAE"]] == [4.0]


def test_runs_of_another_schedule_or_precision_do_not_stand_in_one_table(tmp_path):
    make_run(tmp_path, "vae")
    make_run(tmp_path, "lvae", schedule=300_000)
    make_run(tmp_path, "sigma-vae", precision="bf16")
    assert len(table2.groups(common.read(tmp_path))) == 3


def test_table_3_sets_a_beta_vae_with_the_learned_beta_beside_its_l_vae(tmp_path):
    make_run(tmp_path, "lvae", found=1.394)
    make_run(tmp_path, "beta-vae", beta=2.0)
    ((learned, given),) = table3.pairs(common.read(tmp_path))
    assert learned["model"] == "lvae" and given is None
    make_run(tmp_path, "beta-vae", beta=1.39)
    ((_, given),) = pairs = table3.pairs(common.read(tmp_path))
    assert given["beta"] == 1.39
    row = [cell.strip() for cell in table3.text(pairs).splitlines()[2].split("|")[1:7]]
    assert row[:3] == ["dsprites, 2,000 iterations", "0", "beta-VAE, beta = beta_hat"]
    assert row[3:] == ["1,000", "1.39", "**20.00** (18.13)"]


def test_table_3_marks_the_better_of_two_in_markdown_and_latex(tmp_path):
    make_run(tmp_path, "lvae", found=1.394, rec=21.0)
    make_run(tmp_path, "beta-vae", beta=1.39, rec=20.0)
    pairs = table3.pairs(common.read(tmp_path))
    markdown, latex = table3.text(pairs).splitlines(), table3.latex(pairs).splitlines()
    assert "**20.00** (18.13) | **0.90** (0.96)" in markdown[2] and "| 21.00 (21.14)" in markdown[3]
    assert latex[0].startswith("% Table 3 of the paper") and "commit abc" in latex[0]
    assert r"\textbf{20.00} (18.13)" in latex[4] and "beta\\_hat" in latex[4]
    assert "& 21.00 (21.14)" in latex[5]


def test_a_run_that_stands_in_two_pairs_is_counted_once(tmp_path):
    for batch_size in (64, 32):
        make_run(tmp_path, "lvae", batch_size=batch_size)
    runs = common.read(tmp_path)
    assert common.provenance([runs[0], runs[1], runs[0]]).startswith("2 runs of")


def test_a_run_that_was_begun_with_other_code_names_both_commits(tmp_path):
    file = make_run(tmp_path, "lvae") / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "began_at_commit": "aaa"}))
    assert "(commit aaa, abc;" in common.provenance(common.read(tmp_path))


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    for model, rec in (("vae", math.nan), ("lvae", 12.0), ("sigma-vae", 30.0), ("control-vae", 31.0)):
        make_run(tmp_path, model, rec=rec)
    text = table2.markdown(table2.groups(common.read(tmp_path)))
    assert "| nan (12.46)" in text and "**12.00**" in text and "<u>30.00</u>" in text


def test_latex_says_where_its_numbers_come_from_and_escapes_the_name_of_a_data_set(tmp_path):
    make_run(tmp_path, "vae", dataset="a_b & 100%.npz")
    lines = table2.latex(table2.groups(common.read(tmp_path))).splitlines()
    assert lines[0].startswith("% Table 2 of the paper") and "commit abc" in lines[0]
    assert r"{a\_b \& 100\%.npz, 2,000 iterations, latents 5} \\" in lines[3]


def test_runs_that_hold_sigma_longer_are_distinguished_at_the_fixed_point(tmp_path):
    make_run(tmp_path, "lvae", sigma_freeze=0.5, kl_at_the_end=0.0)
    (row,) = fixed_point.run_table(common.read(tmp_path))[2:]
    assert row.startswith("| dsprites, 2,000 iterations, sigma held for 0.5 of the schedule | 64 |")
    assert "| 0.00 | 2.000 | inf |" in row


def test_what_is_missing_is_made_where_it_is_missed_with_the_seeds_and_batches_that_are_there(
    tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "my runs"
    for seed, batch_size in ((0, 64), (3, 32)):
        make_run(folder, "vae", seed=seed, batch_size=batch_size, dataset="d/my sq.npz")
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["table2.py", str(folder)])
    table2.main()
    command = capsys.readouterr().out.splitlines()[1].strip()
    words = shlex.split(command)
    configs, given = cli.parse(words[words.index("run.py") + 1 :])
    assert given.out == folder and {config.dataset for config in configs} == {"d/my sq.npz"}
    assert {(config.seed, config.batch_size) for config in configs} == {(0, 64), (0, 32), (3, 64), (3, 32)}


@pytest.mark.parametrize("found", [0.004, 1.3942, 123.456])
def test_the_beta_that_table_3_suggests_makes_its_pair(tmp_path, capsys, monkeypatch, found):
    make_run(tmp_path, "lvae", found=found)
    make_run(tmp_path, "beta-vae", beta=0.0)
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["table3.py", str(tmp_path)])
    table3.main()
    words = capsys.readouterr().out.split()
    beta = float(words[words.index("--beta") + 1])
    for other in (found * 0.995, found * 1.005, beta):
        make_run(tmp_path, "beta-vae", beta=other)
    ((_, given),) = table3.pairs(common.read(tmp_path))
    assert given["beta"] == beta


@pytest.mark.parametrize("folder", [common.DATA, Path(os.path.relpath(common.DATA)), Path("runs")])
def test_what_the_kept_runs_lack_is_not_made_among_them(capsys, folder):
    common.missing("L-VAE", "--model lvae", folder)
    assert capsys.readouterr().out.endswith("python run.py --model lvae\n")


def test_a_suggested_command_makes_a_run_of_the_same_protocol(tmp_path):
    make_run(tmp_path, "lvae", latents=7, precision="bf16", select="mig", warmup="cosine")
    (run,) = common.read(tmp_path)
    given = common.flags(run.protocol).split() + ["--model", "lvae"]
    (config,), _ = cli.parse(given)
    assert (config.latents, config.precision, config.select, config.warmup) == (7, "bf16", "mig", "cosine")
    others = "latents 7, precision bf16, select mig, warmup cosine"
    assert common.protocol_title(run.protocol).endswith(f"2,000 iterations, {others}")


@pytest.mark.parametrize(
    "settings",
    [{"paper": True}, {"paper": True, "iterations": 2000}, {"paper": True, "iterations": 9, "schedule": 9}],
)
def test_a_suggested_command_trains_as_the_paper_where_the_run_did(tmp_path, settings):
    made = Config(model="lvae", **settings)
    protocol = tuple(
        getattr(made, name) if name != "latents" else 5
        for name in ("dataset", "iterations", "schedule", *common.SHARED)
    )
    given = common.flags(protocol).split() + ["--model", "lvae"]
    (config,), _ = cli.parse(given)
    assert dataclasses.replace(config, latents=None) == made
    assert ", paper" in common.protocol_title(protocol)


def test_runs_that_hold_sigma_longer_stand_in_a_row_of_their_own(tmp_path):
    make_run(tmp_path, "lvae", sigma_freeze=0.05)
    make_run(tmp_path, "lvae", seed=1, sigma_freeze=0.2)
    make_run(tmp_path, "vae", sigma_freeze=0.05)
    (methods,) = table2.groups(common.read(tmp_path)).values()
    assert list(methods) == ["VAE", "L-VAE", "L-VAE, sigma held for 0.2 of the schedule"]


def test_the_fixed_point_implies_the_kl_of_the_papers_rows():
    row = next(line for line in fixed_point.paper_table() if line.startswith("| dsprites"))
    assert row == "| dsprites | 21.14 | 1.39 | 10.94 | 15.81 |"


@pytest.fixture
def trained(tmp_path, small, monkeypatch):
    """One real, finished run on the small data set; scoring.py works on it and writes beside it.

    Factors are squared: of 0, 1, 4 ... 49 the first three share a bin.
    """
    usual = small.factors
    monkeypatch.setattr(small, "factors", lambda index: usual(index) ** 2)
    config = Config(iterations=20, batch_size=8, threads=1, device="cpu")
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    training = Run(config, tmp_path / "runs" / config.name, small)
    training.train()
    training.finish()
    training.close()
    monkeypatch.setattr(data, "load", lambda *_: small)
    monkeypatch.setattr(common, "HERE", tmp_path)
    given = ["scoring.py", str(tmp_path / "runs"), "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", given)
    return tmp_path / "runs" / config.name


def test_a_network_is_scored_in_each_way(trained, tmp_path, small, capsys):
    make_run(tmp_path / "runs", "vae")  # its network is not there
    scoring.main()
    assert capsys.readouterr().out.startswith(f"scored: {trained.name}\nwritten: ")
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    stored = json.loads((trained / "results.json").read_text())["scores"]
    index = data.Split.of(len(small)).test
    factors, (_, codes) = small.factors(index), evaluate(lvae_min.load(trained), small, index)
    plain = metrics.score(factors, codes, discrete=True)
    for name in ("beta_vae", "factor_vae", "explicitness", "irs", "mig"):
        assert row[name] == pytest.approx([stored[name], plain[name]])
    assert row["irs"][0] != row["irs"][1] and row["sap"] == pytest.approx(stored["sap"])
    trees = [metrics.sap(factors, codes, discrete, trees=True) for discrete in (False, True)]
    assert row["sap_trees"] == trees and trees[0] != trees[1]
    line = (tmp_path / "scoring.md").read_text().splitlines()[2]
    assert line.startswith("| dsprites, 20 iterations | L-VAE | 8 | 0 | ") and line.endswith(" | 0.29 |")
    assert f"| {row['irs'][0]:.2f} / {row['irs'][1]:.2f} |" in line


def test_networks_stand_in_the_order_of_table_2_within_a_protocol():
    row = dict.fromkeys(scoring.IN_BOTH, 0.5) | {"sap": 0.5, "sap_trees": 0.5, "sap_paper": None}
    row |= {"batch": 64, "seed": 0, "beta": 1.0}
    names = [("b", "VAE"), ("b", "L-VAE, sigma held for 0.5"), ("a", "L-VAE"), ("b", "beta-VAE")]
    table = scoring.table([{**row, "run": run, "method": method} for run, method in names]).splitlines()[2:]
    assert [line.split(" | ")[1].split(",")[0] for line in table] == ["L-VAE", "VAE", "beta-VAE", "L-VAE"]


def test_a_file_that_cannot_be_written_is_reported_before_networks_are_scored(copied, tmp_path):
    done = call(copied, "scoring", tmp_path, "--json", tmp_path / "nowhere" / "found.json")
    assert done.returncode == 2 and f"{tmp_path / 'nowhere'}: no such folder" in done.stderr


def test_a_network_that_cannot_be_scored_is_left_out_and_named(trained, capsys):
    (trained / "best.pt").write_bytes(b"no network")
    scoring.main()
    assert capsys.readouterr().out.startswith(f"left out: {trained.name}: ")


@pytest.mark.parametrize(
    "model, settings, paper",
    [
        ("beta-vae", {"beta": 2.0}, 0.27),
        ("beta-vae", {"beta": 4.0}, None),
        ("lvae", {"sigma_freeze": 0.5}, None),
        ("lvae", {"dataset": "arm3d"}, None),
    ],
)
def test_the_papers_sap_stands_beside_its_own_setting_alone(tmp_path, model, settings, paper):
    make_run(tmp_path, model, **settings)
    assert scoring.papers_sap(common.read(tmp_path)[0]) == paper


def test_the_papers_row_is_beyond_a_rate_that_rises_along_a_cosine_and_not_along_a_line():
    """The integrals of 1e-5 + 9e-5 (1 - cos(pi t / 150,000)) / 2 and 1e-5 + 9e-5 t / 150,000 up to 50,000."""
    curve = 0.5 + 4.5e-5 * (50_000 - 150_000 / math.pi * math.sin(math.pi / 3))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in fixed_point.reach_table()[2:]]
    assert [row[0][:6] for row in rows] == ["a line", "a cosi", "a line"]
    own = 25_000 * 5.5e-5 + 25_000 * 5.05e-5  # a schedule of 50,000: the means of its halves
    for (_, total, most, _), wanted in zip(rows, (0.5 + 0.75, curve, own), strict=True):
        assert (total, most) == (f"{wanted:.2f}", f"{1 + wanted:.2f}")
    assert float(rows[1][2]) < float(rows[1][3]) == 2.14 < float(rows[0][2])


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The scripts in a folder of their own, since they write beside themselves."""
    folder = tmp_path_factory.mktemp("scripts") / "figures"
    shutil.copytree(ROOT / "figures", folder, ignore=shutil.ignore_patterns("data", "*.png", "__pycache__"))
    return folder


def call(copied, script, *arguments):
    return subprocess.run(
        [sys.executable, copied / f"{script}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_which_command_makes_what_is_missing(copied, tmp_path, script):
    done = call(copied, script, tmp_path)
    assert done.returncode == 0 and "missing: " in done.stdout and "python run.py --" in done.stdout
    assert done.stderr == ""


def test_scripts_write_what_they_are_called(copied, tmp_path):
    for model, beta in (("vae", 1.0), ("beta-vae", 2.0), ("lvae", 1.4)):
        make_run(tmp_path, model, beta=beta)
    for seed, schedule in enumerate((3000, 4000, 5000), 1):  # four panels of Fig. 3 take two rows
        make_run(tmp_path, "lvae", seed=seed, schedule=schedule)
    make_run(tmp_path, "beta-vae", beta=1.4)
    for script, files in {
        "fig1": ["fig1.png"],
        "fig2": ["fig2.png"],
        "fig3": ["fig3.png"],
        "table2": ["table2.md", "table2.tex"],
        "table3": ["table3.md", "table3.tex"],
        "fixed_point": ["fixed_point.md"],
        "keep": ["data/lvae-1.4-0-64-0.5/log.jsonl"],
    }.items():
        done = call(copied, script, tmp_path)
        assert done.returncode == 0 and done.stderr == "", (script, done.stderr)
        for name in files:
            assert (copied / name).stat().st_size > 100
            if name.endswith(".png"):
                with Image.open(copied / name) as picture:
                    assert len(picture.convert("RGB").getcolors(10**6)) > 20


def test_a_damaged_run_is_reported_in_one_line(copied, tmp_path):
    (make_run(tmp_path) / "results.json").write_text('{"scores": ')
    done = call(copied, "table2", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "damaged" in done.stderr
    done = call(copied, "fig1", tmp_path / "nowhere")
    assert done.returncode == 2 and "no such folder" in done.stderr


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("scores", "mig"), None, "mig is missing"),
        (("settings", "warmup"), ["linear"], "--warmup"),
        (("settings", "schedule"), 10, "--schedule 10"),
        (("settings", "model"), "gan", "--model gan"),
        (("settings", "sigma_freeze"), "x", "--sigma-freeze x"),
        (("equilibrium", "kl"), -1.0, "kl is -1.0"),
        (("began_at_commit",), 5, "began_at_commit is 5"),
    ],
)
def test_results_that_cannot_be_are_reported_with_their_folder(tmp_path, path, value, message):
    file = make_run(tmp_path, "lvae") / "results.json"
    results = json.loads(file.read_text())
    *parents, last = path
    place = results
    for name in parents:
        place = place[name]
    place[last] = value
    if value is None:
        del place[last]
    file.write_text(json.dumps(results))
    with pytest.raises(ValueError) as error:
        common.read(tmp_path)
    assert message in str(error.value) and str(file.parent) in str(error.value)


MEASURED = {"device": "a CPU", "threads": 2, "versions": {"torch": "2.13.0"}, "commit": "abc"}


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        "{",
        '{"device": "a"}',
        *(json.dumps({**MEASURED, "growth": growth}) for growth in (5, [], [1], [{"over": "images"}])),
        json.dumps({**MEASURED, "threads": "two", "growth": [{"over": "a", "value": 1, "ms or GB": 1}]}),
    ],
)
def test_measurements_of_another_form_are_reported_in_one_line(tmp_path, content):
    file = tmp_path / "bench.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="no measurement of growth .*; make it with python") as error:
        cost.measured(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_what_was_kept_is_not_kept_again(copied):
    (copied / "data").mkdir(exist_ok=True)
    done = call(copied, "keep", copied / "data")
    assert done.returncode == 2 and "name the folder of the runs" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["-m", "bench"], ["run.py"], ["-m", "lvae_min.metrics"], ["-m", "lvae_min.datasets"]]
)
def test_a_wrong_command_line_is_reported_in_one_line(command):
    given = [sys.executable, *command, "--nothing"]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--help lists all" in done.stderr


def test_a_wrong_command_line_of_a_figure_is_reported_in_one_line(copied):
    done = call(copied, "table2", "--nothing")
    assert done.returncode == 2 and "--nothing" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name, content",
    [
        ("results.json", b"[" * 100_000),
        ("results.json", b'{"settings": []}'),
        ("log.jsonl", b"[]\n"),
        ("log.jsonl", b""),
        ("log.jsonl", b"\xff\n"),
    ],
)
def test_records_of_another_form_are_reported_in_one_line(tmp_path, name, content):
    folder = make_run(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="damaged .*; remove it and run it again") as error:
        common.read(tmp_path)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_runs_that_were_made_outside_a_checkout_have_a_provenance(tmp_path):
    file = make_run(tmp_path) / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "commit": None}))
    assert "(commit unknown; a CPU" in common.provenance(common.read(tmp_path))


@pytest.mark.parametrize("name", ["$\\frac$", "cost in $"])
def test_a_run_of_any_name_is_drawn(tmp_path, name):
    folder = make_run(tmp_path).rename(tmp_path / name)
    plots.curves(folder)
    assert (folder / "curves.png").stat().st_size > 1000
