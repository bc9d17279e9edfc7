from memcarve.dtypes import I64

INTERFACE: int

def count_windows(data: memoryview, first: int, window: int, counts: I64) -> None: ...
