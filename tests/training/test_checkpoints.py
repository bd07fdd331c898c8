"""c"""


def test_checkpoints_hold_nothing_that_runs(tmp_path):
    Checkpoints(tmp_path, "key", Sole().check).save(1, {"model": print})
    with pytest.raises(pickle.UnpicklingError, match="print"):
        Checkpoints(tmp_path, "key", Sole().check).load()
