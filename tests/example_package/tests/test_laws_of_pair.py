import coin_gradients

import estimator_lab as lab


@lab.parametrize_with_checks([coin_gradients.Pair()])
def test_laws(estimator, check):
    check(estimator)
