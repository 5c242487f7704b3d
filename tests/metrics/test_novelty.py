import numpy as np
import pytest
from scipy.spatial.distance import cdist

from more_scvi.metrics import knn_novelty, neighbour_novelty, novelty_auroc, purity


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    novel = rng.random(200) < 0.2
    score = (rng.standard_normal(200) + novel).round(1)  # rounded, so that some are tied
    higher, lower = score[novel][:, None], score[~novel][None, :]
    assert novelty_auroc(score, novel) == pytest.approx(np.mean((higher > lower) + 0.5 * (higher == lower)))


def test_auroc_of_chance_and_of_a_constant_score_is_one_half():
    rng = np.random.default_rng(0)
    novel = rng.random(5000) < 0.3
    assert novelty_auroc(rng.standard_normal(5000), novel) == pytest.approx(0.5, abs=0.02)
    assert novelty_auroc(np.ones(5000), novel) == 0.5


def test_auroc_counts_only_the_cells_asked_for():
    score, novel = [0.1, 0.2, 0.9, np.nan], [False, True, False, False]
    assert novelty_auroc(score, novel, [True, True, False, False]) == 1
    assert novelty_auroc(score, novel, [True, True, True, False]) == 0.5
    assert np.isnan(novelty_auroc(score, novel, [True, False, True, False]))


def test_knn_novelty_is_the_mean_distance_to_other_visible_cells():
    rng = np.random.default_rng(0)
    z, visible = rng.standard_normal((80, 4)), rng.random(80) < 0.5
    distances = cdist(z, z)
    np.fill_diagonal(distances, np.inf)
    expected = np.sort(distances[:, visible], axis=1)[:, :5].mean(axis=1)
    assert np.allclose(knn_novelty(z, visible, n_neighbors=5), expected)


def test_knn_novelty_finds_a_type_without_labels(cells):
    z, labels, _ = cells
    hidden = (labels == "c") | (np.arange(600) % 2 == 0)
    assert novelty_auroc(knn_novelty(z, ~hidden), labels == "c", among=hidden) == 1
    noise = np.random.default_rng(1).standard_normal(z.shape)
    assert novelty_auroc(knn_novelty(noise, ~hidden), labels == "c", among=hidden) == pytest.approx(0.5, abs=0.07)


def test_knn_novelty_takes_as_many_neighbours_as_there_are():
    z = np.array([[0.0], [1.0], [5.0]])
    assert knn_novelty(z, [True, True, False]).tolist() == [1, 1, 4]


@pytest.mark.parametrize("n", [60, 8])
def test_purity_is_what_brute_force_finds(n):
    rng = np.random.default_rng(0)
    z, member = rng.standard_normal((150, 4)), np.arange(150) < n
    z[member] += 0.8
    distances = cdist(z, z)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :15]
    expected = member[nearest][member].mean() / (min(15, n - 1) / 15)
    assert purity(z, member) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "chance"), [(40, 39 / 199), (6, 5 / 199 * 15 / 5)])
def test_purity_is_one_apart_and_at_chance_in_noise(n, chance):
    rng, member = np.random.default_rng(0), np.arange(200) < n
    assert purity(rng.standard_normal((200, 3)) + 50 * member[:, None], member) == 1
    found = [purity(rng.standard_normal((200, 3)), rng.permutation(member)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(chance, rel=0.1)


@pytest.mark.parametrize("width", [2, 40])
def test_purity_of_one_point_is_chance_wherever_the_cells_stand_in_the_table(width):
    member = np.arange(400) < 100
    for position in (member, member[::-1]):
        assert purity(np.full((400, width), 3.0), position) == pytest.approx(99 / 399, abs=0.05)


def test_purity_within_batches_is_blind_to_batch_effects():
    rng = np.random.default_rng(0)
    member, batches = np.arange(400) % 4 == 0, np.repeat(["x", "y"], 200)
    z = rng.standard_normal((400, 3)) + 20 * member[:, None]
    shifted = z + 20 * (batches == "y")[:, None]  # other cells of y now lie where the type lies in x
    assert purity(z, member) == 1
    assert purity(shifted, member) < 0.8
    assert purity(shifted, member, batches) == 1


def test_a_cell_alone_of_its_type_in_its_batch_is_left_out():
    z = np.array([[0.0], [0.1], [9.0], [9.1], [9.2]])
    member, batches = [True, True, True, False, False], ["x", "x", "y", "y", "y"]
    assert purity(z, member, batches, n_neighbors=1) == 1
    assert purity(z, member, n_neighbors=1) == pytest.approx(2 / 3)


def test_a_type_of_fewer_than_two_cells_has_no_purity():
    z = np.random.default_rng(0).standard_normal((20, 2))
    assert np.isnan(purity(z, np.zeros(20, dtype=bool)))
    assert np.isnan(purity(z, np.arange(20) == 3))
    assert np.isnan(purity(z, np.arange(20) < 2, ["x", "y"] * 10))
    assert purity(z, np.ones(20, dtype=bool)) == 1


def test_results_are_repeatable(cells):
    z, labels, batches = cells
    noise = np.random.default_rng(3).standard_normal(z.shape)
    assert purity(noise, labels == "a", batches) == purity(noise, labels == "a", batches)
    assert (knn_novelty(noise, labels == "a") == knn_novelty(noise, labels == "a")).all()


Z, MASK = np.arange(8.0).reshape(4, 2), np.array([True, True, False, False])
NAN = np.where(Z == 3, np.nan, Z)
INF = np.where(Z % 2 == 1, np.inf, Z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: purity(NAN, MASK), "z holds 1 values that are not finite"),
        (lambda: purity(Z[0], MASK), r"z \(2,\) must be \(cells, columns\)"),
        (lambda: purity(Z, MASK[:3]), r"of_type \(3,\) must be a mask with one boolean for each of the 4 cells"),
        (lambda: purity(Z, [0, 3]), "of_type must be a mask of booleans.*int64"),
        (lambda: purity(Z, list("aabb")), "of_type must be a mask of booleans"),
        (lambda: purity(Z, MASK, ["x"]), r"batches \(1,\) must hold one name for each of the 4 cells"),
        (lambda: knn_novelty(INF, MASK), "z holds 4 values that are not finite"),
        (lambda: knn_novelty(Z, MASK[:1]), r"visible \(1,\) must be a mask"),
        (lambda: knn_novelty(Z, Z[:, 0] == 0), "visible marks 1 cells; .* at least 2"),
        (lambda: novelty_auroc(NAN[:, 1], MASK), "score holds 1 values that are not finite"),
        (lambda: novelty_auroc(Z[:, 0], MASK[:2]), r"novel \(2,\) must be a mask"),
        (lambda: novelty_auroc(Z[:, 0], MASK, MASK[:2]), r"among \(2,\) must be a mask"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_neighbour_novelty_finds_a_type_that_varies_less_than_the_others():
    rng = np.random.default_rng(0)
    wide, tight = rng.normal(0, 3, (300, 5)), rng.normal(0, 0.3, (60, 5)) + 4
    z, new = np.concatenate([wide, tight]), np.arange(360) >= 300
    visible = ~new & (rng.random(360) < 0.5)
    by_neighbours = novelty_auroc(neighbour_novelty(z, visible), new, ~visible)
    assert by_neighbours > 0.95
    assert by_neighbours > novelty_auroc(knn_novelty(z, visible), new, ~visible)


def test_neighbour_novelty_compares_an_unlabelled_batch_with_itself():
    rng = np.random.default_rng(1)
    z = np.concatenate([rng.normal(size=(200, 3)), rng.normal(size=(200, 3)) + [1.5, 0, 0]])
    batches = np.repeat(["a", "b"], 200)
    visible = np.arange(400) < 200
    alone = neighbour_novelty(z, visible, batches)
    assert abs(np.median(alone[200:]) - 0.5) < 0.1
    assert np.median(neighbour_novelty(z, visible)[200:]) > 0.55


def test_neighbour_novelty_without_labels_says_so():
    with pytest.raises(ValueError, match="visible marks no cell"):
        neighbour_novelty(np.zeros((5, 2)), np.zeros(5, bool))
