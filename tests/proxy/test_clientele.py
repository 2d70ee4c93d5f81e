from __future__ import annotations

from proxy.clientele import Clientele


def test_a_program_is_known_by_name_and_version_and_by_when_it_asked_last() -> None:
    clientele = Clientele()
    clientele.asked("docker/28.2.2 go/go1.23 kernel/6.1", 1.0)
    clientele.asked("docker/28.2.2 go/go1.23 kernel/6.2", 5.0)
    program = clientele.programs["docker/28.2.2"]
    assert (program.asked_at, program.requests) == (5.0, 2)


def test_what_clients_write_takes_little_room() -> None:
    clientele = Clientele()
    for number in range(1000):
        clientele.asked(f"{number}" + 10_000 * "x", float(number))
    assert len(clientele.programs) == 32
    assert max(map(len, clientele.programs)) == 64
    clientele.asked("\x1b[31mred", 1.0)
    assert "" in clientele.programs
