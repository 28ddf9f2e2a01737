import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads: tiny tensors, and sums in one order
