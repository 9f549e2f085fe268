import numpy as np
import pytest

from ssl_transfer.data.checks import duplicate_findings as check_copies
from ssl_transfer.data.checks import findings
from ssl_transfer.data.checks.findings import Finding, Images
from ssl_transfer.data.dataset import PARTS, Moments

UNLABELED, TRAIN, VALIDATION, TEST = range(4)


def images(parts, labels=None, classes=("a", "b")) -> Images:
    labels = np.zeros(len(parts), int) if labels is None else np.array(labels)
    names = np.array([f"{PARTS[part] if part >= 0 else 'none'}/{index}" for index, part in enumerate(parts)])
    return Images(names=names, labels=labels, parts=np.array(parts), classes=classes)


def by_topic(found: list[Finding]) -> dict[str, Finding]:
    assert len({one.topic for one in found}) == len(found)
    return {one.topic: one for one in found}


def test_parts_are_in_the_order_that_these_tests_write():
    assert PARTS == ("unlabeled", "train", "validation", "test")


def test_counts_leave_out_what_is_in_no_part():
    table = images([TRAIN, TRAIN, TEST, UNLABELED, -1], [0, 1, 1, -1, 0]).counts()
    assert table.tolist() == [[0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(("count", "severity"), [(0, "fine"), (1, "warning"), (2, "problem")])
def test_unreadable_images_are_a_problem_above_the_limit(count, severity):
    found = findings.unreadable({f"{index}.jpg": "cut short" for index in range(count)}, 100, 0.01)
    assert found.severity == severity
    assert found.details == tuple(f"{index}.jpg: cut short" for index in range(count))


def test_copies_across_parts_within_and_with_two_labels():
    #        0 and 1 cross; 2 and 3 do not, and disagree; 4 and 5: training and unlabelled images are one pool
    parts = [TRAIN, TEST, TRAIN, TRAIN, TRAIN, UNLABELED, TEST]
    codes = np.array([7, 7, 3, 3, 5, 5, -1])
    found = by_topic(check_copies.exact_copies(images(parts, [0, 0, 0, 1, 1, -1, 0]), codes))
    across = found["exact copies across parts"]
    assert (across.severity, across.groups) == ("problem", ((0, 1),))
    assert "train/0 and test/1" in across.sentence
    unlike = found["exact copies with different labels"]
    assert (unlike.severity, unlike.groups) == ("problem", ((2, 3),))
    within = found["exact copies within a part"]
    assert (within.severity, within.groups) == ("warning", ((2, 3), (4, 5)))
    assert within.sentence.startswith("2 images are copies")


def test_no_copies_is_one_fine_line():
    nothing = np.full(3, -1)
    assert [one.severity for one in check_copies.exact_copies(images([TRAIN] * 3), nothing)] == ["fine"]
    assert [one.severity for one in check_copies.near_duplicates(images([TRAIN] * 3), nothing, nothing)] == ["fine"]


def test_near_duplicates_leave_out_groups_of_exact_copies():
    parts = [TRAIN, TEST, TRAIN, TEST, TEST]
    near, copies = np.array([0, 0, 1, 1, 1]), np.array([4, 4, 6, 6, -1])
    found = by_topic(check_copies.near_duplicates(images(parts), near, copies))
    # 0 and 1 are equal; 2 and 3 are, but 4 is not.
    assert found["near duplicates across parts"].groups == ((2, 3, 4),)
    assert set(found) == {"near duplicates across parts"}


@pytest.mark.parametrize(("tested", "severity"), [(200, "warning"), (50, "problem")])
def test_near_duplicates_are_a_problem_where_they_are_many(tested, severity):
    parts = [TRAIN, TEST, *[TEST] * (tested - 1)]
    codes = np.full(len(parts), -1)
    codes[:2] = 0
    found = check_copies.near_duplicates(images(parts), codes, np.full(len(parts), -1))
    assert found[0].severity == severity


def test_near_duplicates_with_different_labels_are_told():
    found = by_topic(check_copies.near_duplicates(images([TRAIN] * 2, [0, 1]), np.zeros(2, int), np.full(2, -1)))
    assert found["near duplicates with different labels"].groups == ((0, 1),)


def test_small_missing_and_unbalanced_classes():
    parts = [TRAIN] * 109 + [TEST] * 2
    found = by_topic(findings.classes_and_parts(images(parts, [0] * 100 + [1] * 9 + [0, 0])))
    assert "b (9)" in found["small classes"].sentence
    assert "no test image: b" in found["classes without test images"].sentence
    assert found["balance"].severity == "warning"
    assert "11.1 times" in found["balance"].sentence
    # There is no validation part at all, so no class is missing from it.
    assert "classes without validation images" not in found


def test_a_class_without_training_images_is_a_problem():
    found = by_topic(findings.classes_and_parts(images([TRAIN] * 20 + [TEST], [0] * 20 + [1])))
    assert found["small classes"].severity == "problem"


def test_equal_classes_are_fine_and_no_classes_too():
    found = findings.classes_and_parts(images([TRAIN] * 20, [0, 1] * 10))
    assert [one.severity for one in found] == ["fine"]
    found = findings.classes_and_parts(images([UNLABELED] * 3, [-1] * 3, classes=()))
    assert "No image has a label" in found[0].sentence


def test_sizes_against_the_image_size():
    square = np.full((200, 2), 100)
    assert [one.severity for one in findings.sizes(square, 64)] == ["fine"]
    few = square.copy()
    few[3] = (40, 30)
    assert findings.sizes(few, 64)[0].groups == ((3,),)
    assert findings.sizes(few, 64)[0].severity == "fine"
    small = findings.sizes(square, 128)[0]
    assert (small.severity, small.groups) == ("warning", ())
    assert "100 px" in small.remedy


def test_long_images_are_shown():
    sizes = np.array([[100, 100], [201, 100], [100, 300], [200, 100]])
    found = by_topic(findings.sizes(sizes, 64))["shapes"]
    assert found.groups == ((1,), (2,))
    assert "up to 3.0" in found.sentence


def moments(means, deviations) -> Moments:
    means, deviations = np.array(means, float)[:, None], np.array(deviations, float)[:, None]
    return Moments(mean=means, square=means**2 + deviations**2)


def test_blank_images_are_found_and_faint_ones_are_not():
    found = by_topic(findings.values(moments([10, 20, 30], [0, 1, 50]), np.full(3, TRAIN), (0.0, 255.0), "uint8"))
    assert found["blank images"].groups == ((0,),)


def test_statistics_of_channels_equal_those_of_the_pixels():
    pixels = np.random.default_rng(0).integers(100, 1100, (6, 2, 4, 4)).astype(float)
    measured = Moments(mean=pixels.mean(axis=(2, 3)), square=np.square(pixels).mean(axis=(2, 3)))
    chosen = np.array([True, True, False, True, False, True])
    mean, deviation = findings.channel_statistics(measured, chosen, (100.0, 1100.0))
    units = (pixels[chosen] - 100.0) / 1000.0
    np.testing.assert_allclose(mean, units.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(deviation, units.std(axis=(0, 2, 3)))


def test_parts_of_other_colours_are_told_and_chance_is_not():
    generator = np.random.default_rng(0)
    parts = np.array([TRAIN] * 200 + [TEST] * 100)
    same, other = generator.normal(100, 10, 300), generator.normal(100, 10, 300)
    other[200:] += 15
    dull = np.full(300, 20.0)
    topics = [one.topic for one in findings.values(moments(same, dull), parts, (0.0, 255.0), "uint8")]
    assert "unlike parts" not in topics
    found = by_topic(findings.values(moments(other, dull), parts, (0.0, 255.0), "uint8"))
    assert "test by 1." in found["unlike parts"].sentence
    # Of four images a mean so far away is chance.
    parts[204:] = TRAIN
    topics = [one.topic for one in findings.values(moments(same + 6 * (parts == TEST), dull), parts, (0.0, 255.0), "u")]
    assert "unlike parts" not in topics
