from jobs import write_job

from host.scripting import estimate_memory


def test_blocks_that_wait_on_disk_take_no_main_memory(tmp_path):
    job = write_job(tmp_path, architecture="fd")
    kept, streamed = (
        {phase.name: phase.host for phase in estimate_memory(job, *flags, device_type="cpu").phases}
        for flags in ((), ("--blocks_to_swap", "6"))
    )
    for phase in ("training", "saving"):
        assert streamed[phase] < kept[phase]
    assert streamed["text"] == kept["text"]
