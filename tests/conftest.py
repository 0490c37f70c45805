"""Settings of every test."""

import torch
from hypothesis import settings

# The networks of the tests are so small that a second thread costs more than it brings.
torch.set_num_threads(1)

# The same examples in every run: a failure that comes and goes teaches nobody.
settings.register_profile("house", deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile("house")
