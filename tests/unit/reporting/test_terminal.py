"""The table at the end of a run."""

from echodfkd.reporting.page.terminal import summary_lines


def test_the_table_shows_means_intervals_and_dashes() -> None:
    score = {"mean": 0.9512, "low": 0.9, "high": 0.99, "n": 24}
    summary = {
        "teacher": {"scores": {"dice_all": score}},
        "students": {"c31": {"parameters": 174721, "scores": {"dice_ed": score, "judge_score": {"mean": None}}}},
        "ledger": {"clips": 8, "lost": 0, "to_come": 0, "repeated": 1, "quarantined": 2},
    }
    header, teacher, student, ledger = summary_lines(summary)
    assert header.split() == ["model", "weights", "Dice", "Dice", "ED", "Dice", "ES", "judge"]
    assert teacher.split() == ["teacher", "0.951", "[0.900,", "0.990]", "n=24", "-", "-", "-"]
    assert student.split() == ["c31", "174,721", "-", "0.951", "[0.900,", "0.990]", "n=24", "-", "-"]
    assert ledger == "8 clips trained, 0 lost, 1 repeated, 2 quarantined"
    summary["ledger"]["to_come"] = 12
    assert summary_lines(summary)[-1] == "8 clips trained, 12 to come, 0 lost, 1 repeated, 2 quarantined"


def test_what_students_took_stands_below_where_it_is_known() -> None:
    summary = {
        "teacher": {"scores": {}},
        "students": {
            "c31": {"parameters": 174721, "scores": {}, "steps": 1200, "stopped_early": True, "step_s": 0.0123},
            "c11": {"parameters": 5701, "scores": {}, "steps": 2000, "step_s": None},
        },
        "ledger": {"clips": 8, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0},
    }
    lines = summary_lines(summary)
    assert lines[6].split("  ") == ["c31", "1,200 updates (stopped early)", "12.3 ms an update"]
    assert not any(line.startswith("c11") for line in lines[6:])  # its time is not known
