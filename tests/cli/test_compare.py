from evaluated_folders import make_folder


def test_folders_are_compared_by_name(whorl, tmp_path):
    make_folder(tmp_path / "a", 8)
    make_folder(tmp_path / "b=c", 8, seed=1)
    said = whorl("compare", f"GAN={tmp_path / 'a'}", tmp_path / "b=c", "--output", tmp_path / "out")
    assert said.code == 0
    assert "GAN" in said.out
    assert "S.U.N." in said.out
    assert said.out.split()[-1].endswith("comparison.html")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "comparison.html",
        "comparison.png",
        "comparison.csv",
    }


def test_a_folder_of_something_else_is_refused(whorl, tmp_path):
    make_folder(tmp_path / "a", 3)
    said = whorl("compare", tmp_path / "a", tmp_path, "--output", tmp_path / "out")
    assert said.code == 1
    assert "there is no metrics.json" in said.err
