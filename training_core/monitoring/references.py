"""What a window is compared with: the training rows, the windows before it, or earlier windows of its season.

Windows are kept as tallies, so a reference that moves needs no rows either. In streams whose windows differ among
themselves (prices, weather, holidays) `calibrate` learns by how much they do while nothing is wrong.
"""

from collections.abc import Sequence

from training_core.config import Config
from training_core.errors import DataError
from training_core.monitoring.compare import compare
from training_core.monitoring.config import DriftConfig
from training_core.monitoring.profile import ReferenceProfile
from training_core.monitoring.tally import Tally, pool


class Window(Config):
    """A window that was measured: `to_json` keeps it, `Window.model_validate_json` reads it."""

    label: str
    """A date, a file."""
    season: str = ""
    """What it is compared within, under a seasonal reference: `winter`, `Monday`, `08 h`."""
    tally: Tally


def reference_for(
    profile: ReferenceProfile, history: Sequence[Window], config: DriftConfig, season: str = ""
) -> ReferenceProfile:
    """The reference of the next window.

    "training": the profile. "rolling": the last `num_windows` of `history`. "seasonal": the last `num_windows` of the
    same season. As long as those hold fewer than `min_rows` rows, the profile itself. A rolling reference forgets what
    drifted slowly, or `num_windows` windows ago; the performance is always compared with that of the profile, so that
    a model which gets worse little by little is seen.

    Args:
        profile: of the training rows, with whose scales the windows were measured.
        history: windows before, oldest first.
        config: which reference.
        season: of the next window.

    Raises:
        DataError: a window was measured with another profile.
    """
    chosen = [w for w in history if config.reference == "rolling" or w.season == season][-config.num_windows :]
    if config.reference == "training" or sum(window.tally.num_rows for window in chosen) < config.min_rows:
        return profile
    return _pooled(profile, chosen)


def calibrate(profile: ReferenceProfile, windows: Sequence[Window], config: DriftConfig) -> ReferenceProfile:
    """The profile, knowing how far windows without drift are apart.

    Each window is compared as it would be under `config`: with all others ("training"), with those before it
    ("rolling"), or with the others of its season ("seasonal"). For each check the largest strength seen becomes usual;
    later windows must show more than that before they warn.

    Args:
        profile: of the same rows.
        windows: the reference cut as later windows will be, oldest first, measured by `profile.measure`.
        config: the thresholds and the kind of reference.

    Raises:
        DataError: fewer than 3 windows, or they were measured with another profile.
    """
    if len(windows) < 3:
        raise DataError(f"{len(windows)} windows cannot tell what is usual between windows; give at least 3")
    plain = profile.model_copy(update={"usual": {}})
    usual: dict[str, float] = {}
    for place, window in enumerate(windows):
        if config.reference == "rolling":
            others = list(windows[max(0, place - config.num_windows) : place])
        else:
            same = config.reference == "seasonal"
            others = [w for i, w in enumerate(windows) if i != place and (not same or w.season == window.season)]
        if not others:
            continue
        for check in compare(_pooled(plain, others), window.tally, config).checks:
            if check.verdict != "insufficient_data" and check.kind != "performance":  # worse answers are never usual
                usual[check.name] = max(usual.get(check.name, 0.0), check.strength)
    return profile.model_copy(update={"usual": usual})


def _pooled(profile: ReferenceProfile, windows: Sequence[Window]) -> ReferenceProfile:
    """The profile with `windows` as its reference; answers are compared with those it was made of all the same.

    Raises:
        DataError: they were measured with another profile.
    """
    if any(window.tally.scale != profile.tally.scale for window in windows):
        raise DataError("a window was measured with another profile; measure it with this one, or leave it out")
    pooled = pool([window.tally for window in windows])
    return profile.against(pooled.model_copy(update={"performance": profile.tally.performance}))
