"""Networks: one architecture per file, named as experiments name it."""
