import pytest

from rank_increase.data.series import checkpoint_files


@pytest.fixture
def run(tmp_path, monkeypatch):
    names = ["seed1/step0/model.safetensors", "seed1/step1000/model.safetensors", "seed1/step512/model.safetensors"]
    names += [f"seed2/step{step}/model-0000{part}-of-00002.safetensors" for step in (0, 8) for part in (2, 1)]
    names += ["seed1/step0/optimizer.safetensors", "seed1/stepX/model.safetensors", "seed1/main/model.safetensors"]
    names += [
        "flat[1]/w_8.safetensors",
        "flat[1]/w_0.safetensors",
        "twice/step3/w_3.safetensors",
        "twice/step3/w_4.safetensors",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "seed", "expected"),
    [
        (
            "seed{seed}/step{step}/model.safetensors",
            1,
            {step: [f"seed1/step{step}/model.safetensors"] for step in (0, 512, 1000)},
        ),
        (
            "seed{seed}/step{step}/model-*.safetensors",
            2,
            {s: [f"seed2/step{s}/model-0000{part}-of-00002.safetensors" for part in (1, 2)] for s in (0, 8)},
        ),
        ("flat[1]/w_{step}.safetensors", 7, {step: [f"flat[1]/w_{step}.safetensors"] for step in (0, 8)}),
        ("twice/step{step}/w_{step}.safetensors", 0, {3: ["twice/step3/w_3.safetensors"]}),
        ("seed{seed}/step{step}/model.safetensors", 3, {}),
    ],
)
def test_files_are_found_by_step(run, pattern, seed, expected):
    found = checkpoint_files(f"{run}/{pattern}", seed)
    assert found == {step: [f"{run}/{path}" for path in paths] for step, paths in expected.items()}
    assert list(found) == sorted(found)


def test_the_home_folder_may_be_a_tilde(run):
    assert set(checkpoint_files("~/seed1/step{step}/model.safetensors", 0)) == {0, 512, 1000}
