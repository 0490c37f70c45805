"""How sessions that are timed are set up."""

import onnxruntime
import pytest

from paretune.export.stopwatch import options_for


@pytest.mark.parametrize("threads", [1, 3])
def test_a_timed_session_has_its_threads_and_none_of_them_waits_in_a_busy_loop(threads: int) -> None:
    options = options_for(threads)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
