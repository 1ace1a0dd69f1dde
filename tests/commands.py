"""Commands as a user types them, for the tests of what they say."""

from __future__ import annotations

TRAIN = ("train", "models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml")


def refused(result, *says):
    """The one line of a mistake, whose parts are checked."""
    code, _, err = result
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in says:
        assert part in err
    return err
