"""torch.distributed made optional: the same line works in one process and in a group."""
