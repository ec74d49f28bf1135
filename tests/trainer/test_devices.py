import pytest

from trainer import devices


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 amx_bf16 amx_tile", True), ("fpu avx512f avx512_bf16", True), ("fpu avx2 avx512f avx512_vnni", False)],
)
def test_bfloat16_where_the_processor_has_it(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\nprocessor : 1\nflags\t\t: {flags}\n")
    assert devices._cpu_has_bfloat16(cpuinfo) == expected


def test_no_bfloat16_where_nothing_is_known(tmp_path):
    assert not devices._cpu_has_bfloat16(tmp_path / "missing")


def test_precision_asked_for_is_taken():
    chosen = devices.choose("float32")
    assert chosen.precision == "float32"
    assert "float32" in chosen.description
