"""The table at the end of a run."""

from echodfkd.reporting.terminal import summary_lines


def test_the_table_shows_means_intervals_and_dashes() -> None:
    score = {"mean": 0.9512, "low": 0.9, "high": 0.99, "n": 24}
    summary = {
        "teacher": {"scores": {"dice_all": score}},
        "students": {"c31": {"parameters": 174721, "scores": {"dice_ed": score, "judge_score": {"mean": None}}}},
        "ledger": {"clips": 8, "lost": 0, "repeated": 1, "quarantined": 2},
    }
    header, teacher, student, ledger = summary_lines(summary)
    assert header.split() == ["model", "weights", "Dice", "Dice", "ED", "Dice", "ES", "judge"]
    assert teacher.split() == ["teacher", "0.951", "[0.900,", "0.990]", "n=24", "-", "-", "-"]
    assert student.split() == ["c31", "174,721", "-", "0.951", "[0.900,", "0.990]", "n=24", "-", "-"]
    assert ledger == "8 clips trained, 0 lost, 1 repeated, 2 quarantined"
