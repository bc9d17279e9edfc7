from memcarve.dtypes import I64, U8, Bools

INTERFACE: int

def decode(
    method: int, data: U8, target: U8, offset: I64, size: I64, place: I64, length: I64, sound: Bools
) -> None: ...
def check(method: int, data: U8, offset: I64, size: I64, length: I64, sound: Bools) -> None: ...
