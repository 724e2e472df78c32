"""Other scales for channels: the same function, with ranges that few bits hold better."""
