"""Calls of noise are timed; what is said of them is checked on figures by hand."""

from sb3_ddpg_ext.benchmark.noise_cost import measure, table
from sb3_ddpg_ext.noise import NOISES


def test_figures_by_hand() -> None:
    # Medians: 4 and 6 us for one environment, 300 and 10 us for many
    seconds = {
        "1": {"SB3 NormalActionNoise": [4e-6, 3e-6, 9e-6], "ours": [6e-6, 6e-6, 1e-6]},
        "64": {"SB3 NormalActionNoise": [3e-4, 1e-4, 4e-4], "ours": [1e-5, 2e-5, 1e-6]},
    }
    assert table(seconds)[2:] == [
        "| SB3 NormalActionNoise | 4.00 | +0.00 | 300.0 | 1.0 |",
        "| ours | 6.00 | +2.00 | 10.0 | 30.0 |",
    ]


def test_everything_is_measured() -> None:
    seconds = measure(rounds=2, calls=3)
    sb3s = ["SB3 NormalActionNoise", "SB3 OrnsteinUhlenbeckActionNoise"]
    ours = [text for name in NOISES if name != "parameter" for text in (f'"{name}"', f'"{name}", scheduled')]
    for times in seconds.values():
        assert list(times) == [*sb3s, *ours]
        assert all(len(each) == 2 and min(each) > 0 for each in times.values())
