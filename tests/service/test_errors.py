"""What can go wrong, as it comes from another process."""

from __future__ import annotations

import pickle

from service import errors
from service.errors import DeviceLost, ServiceError


def test_every_error_comes_from_another_process_as_what_it_was() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ServiceError)]
    raised = [DeviceLost(), *(kind("Do this.") for kind in kinds)]
    came = [pickle.loads(pickle.dumps(error)) for error in raised]
    assert [(type(error), error.detail) for error in came] == [(type(error), error.detail) for error in raised]
