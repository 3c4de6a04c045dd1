"""Pictures that can't be written are said, and cost nothing else."""

from lightpose.cli import train


def test_training_goes_on_without_pictures(run, people, tiny, tmp_path):
    (tmp_path / "file").write_text("no folder")
    options = [f"data.train={people}", f"data.val={people}", "trainer.max_epochs=1", f"output_dir={tmp_path / 'run'}"]
    options += [option for option in tiny if option != "callbacks.report=null"]
    folders = [f"callbacks.{name}.folder={tmp_path / 'file' / 'x'}" for name in ("pictures", "report")]
    code, out, _ = run(train.main, *options, *folders)
    [said] = [line for line in out.splitlines() if line.startswith("The picture")]
    assert code == 0 and "epoch_000.png can't be written" in said
    [said] = [line for line in out.splitlines() if "the report" in line]
    assert f"can't be written to {tmp_path / 'file' / 'x'} (NotADirectoryError" in said
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


def test_pictures_are_written_to_any_folder(run, people, tiny, tmp_path):
    folder = tmp_path / "a, b=c [1]"
    options = [f"data.train={people}", f"data.val={people}", "trainer.max_epochs=1", f"output_dir={tmp_path / 'run'}"]
    assert run(train.main, *options, *tiny, f"callbacks.pictures.folder={folder}")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["epoch_000.png"]
