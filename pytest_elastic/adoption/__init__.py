"""Adoption: processes that a test starts by `multiprocessing` become forks of a zygote.

`Adopter` puts itself in the place of the standard library's starts, while a test runs, and keeps the books.
"""

from pytest_elastic.adoption._adopted_popen import AdoptedPopen
from pytest_elastic.adoption._adopter import Adopter

__all__ = ["AdoptedPopen", "Adopter"]
