"""Random streams: each use has its own, and what an attack draws is unrelated to the data."""

from itertools import product

import numpy as np
import pytest

from fl_sim.data.seeds import Stream, numpy_generator, sequence, torch_generator
from strategies import COHORT, ActiveServer, SeededCohort
from strategies.queries import Query
from strategies.seeds import Use, generator_for
from tests.strategies.apps import LR, Spy, build_model, fedavg, run


def first(seed, stream, *keys):
    return int(sequence(seed, stream, *keys).generate_state(1, np.uint64)[0])


def drawn_for_clients(seed, most=6):
    """The seeds of the clients' streams, which have no key, one or two."""
    counts = (range(most), range(1, most), range(most))
    return {
        first(seed, stream, *keys[:count])
        for stream in Stream
        for keys in product(*counts)
        for count in (0, 1, 2, 3)
    }


class Listening(Query):
    """Remembers the generators it is handed."""

    def __init__(self):
        self.seeds = []

    def craft(self, model, generator):
        self.seeds.append(generator.initial_seed())


def test_what_the_server_draws_is_unrelated_to_what_clients_draw():
    spy, query = Spy(), Listening()
    cohort = SeededCohort(fedavg(), per_round=3)
    shared = {"lr": LR, "client_of": cohort.client_of}
    run(ActiveServer(cohort, spy, build_model, query=query, per_client=True, **shared), rounds=4)
    attacks = [problem.generator.initial_seed() for problem in spy.problems]
    queries = query.seeds[1:]  # the first only asks whether the model fits
    assert len(set(attacks + queries)) == 2 * 3 * 4
    assert not set(attacks + queries) & drawn_for_clients(seed=0)


def test_every_use_has_its_own_stream():
    keys = list(product(range(3), range(1, 4), [*range(4), COHORT]))
    seeds = [generator_for(use, *key).initial_seed() for use in Use for key in keys]
    assert len(set(seeds)) == len(Use) * len(keys)
    assert not set(Use) & set(Stream)
    same = generator_for(Use.ATTACK, 1, 2, 3), generator_for(Use.ATTACK, 1, 2, 3)
    assert same[0].initial_seed() == same[1].initial_seed()


def test_the_streams_of_the_data_stay_what_they_were():
    """Recorded results name images by them."""
    assert numpy_generator(0, Stream.PARTITION).integers(2**32) == 2242647589
    assert torch_generator(0, Stream.BATCHES, 1, 1).initial_seed() == 13193322176346712208


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed=-1 is negative"):
        torch_generator(-1, Stream.BATCHES, 0, 1)
