"""Who waits for whom, from what each processor noted."""

from meshlang.lowering.waiting import Meeting, from_text, report, to_text

MEETINGS = {
    7: Meeting("all_reduce", "layers/moe", ("data",), ((0, 2), (1, 3))),
    9: Meeting("all_to_all", "", ("data", "model"), ((0, 1, 2, 3),)),
}
HOLDERS = [range(2), range(2, 4)]


def test_members_that_are_elsewhere_are_named():
    mine, other = {0: 9, 1: 9}, {2: 9, 3: -7}
    assert report(MEETINGS, mine, [mine, other], HOLDERS) == [
        "processor 0 waits in all_to_all of the program over data+model, as member 0 of 4; "
        "not there: member 3 (processor 3, process 1)",
        "processor 1 waits in all_to_all of the program over data+model, as member 1 of 4; "
        "not there: member 3 (processor 3, process 1)",
    ]


def test_a_process_that_says_nothing():
    mine = {0: 7, 1: -7}
    assert report(MEETINGS, mine, [mine, None], HOLDERS) == [
        "process 1 says nothing; it holds processors 2 3",
        "processor 0 waits in all_reduce of layers/moe over data, as member 0 of 2; "
        "not there: member 1 (processor 2, process 1)",
        "processor 1 waits in no collective",
    ]


def test_states_travel_as_text():
    assert from_text(to_text({3: -7, 4: 9})) == {3: -7, 4: 9}
