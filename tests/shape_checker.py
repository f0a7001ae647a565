"""The checker of annotations in the test run; an int counts as a float, as it does for typing."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
