"""Sessions between parties of one process, over a relay that is another one."""

from __future__ import annotations

import asyncio
import copy
import math
import multiprocessing
import pickle
import time
import unittest
from pathlib import Path
from typing import Any

import junto
from junto import errors
from stage import DEADLINE, Stage


class Talking(Stage):
    async def test_parties_know_each_other(self) -> None:
        sessions = await self.meet(3)
        self.assertEqual([session.me for session in sessions], [0, 1, 2])
        for session in sessions:
            self.assertEqual(session.parties, 3)
            self.assertEqual(session.others, [party for party in range(3) if party != session.me])
            self.assertEqual(session.safety_code, sessions[0].safety_code)
            self.assertEqual(session.id, sessions[0].id)
            self.assertEqual(session.name, "test")
            self.assertFalse(session.verified)

    async def test_messages_come_in_order_from_whom_one_asks(self) -> None:
        a, b, c = await self.meet(3)
        for number in range(50):
            await b.send(0, b"b%d" % number)
            await c.send(0, b"c%d" % number)
            await b.broadcast(b"all%d" % number)
        await b.send(0, b"")
        await b.send(0, bytearray(b"array"))
        await b.send(0, memoryview(b"view"))
        for number in range(50):
            self.assertEqual(await a.recv(2, timeout=DEADLINE), (2, b"c%d" % number))
        for number in range(50):
            self.assertEqual(await a.recv(timeout=DEADLINE), (1, b"b%d" % number))
        for data in (b"", b"array", b"view"):
            self.assertEqual(await a.recv(timeout=DEADLINE), (1, data))
        for session in (a, c):
            for number in range(50):
                got = await session.recv_broadcast(timeout=DEADLINE)
                self.assertEqual(got, (1, b"all%d" % number))
        await asyncio.gather(a.close(), b.close(), c.close())

    async def test_large_messages_arrive_whole(self) -> None:
        a, b = await self.meet(2)
        large = bytes(range(256)) * 16 * 1024
        await a.send(1, large)
        await a.flush()
        self.assertEqual(await b.recv(0, timeout=DEADLINE), (0, large))

    async def test_all_talk_at_once(self) -> None:
        sessions = await self.meet(4)

        async def talk(session: junto.Session) -> int:
            for step in range(20):
                for party in session.others:
                    await session.send(party, b"%d %d" % (session.me, step))
                for party in session.others:
                    got = await session.recv(party, timeout=DEADLINE)
                    assert got == (party, b"%d %d" % (party, step)), got
            await session.close(timeout=DEADLINE)
            return session.me

        done = await asyncio.gather(*map(talk, sessions))
        self.assertEqual(done, [0, 1, 2, 3])


    async def test_broadcasts_that_nobody_reads_hold_back_no_other_party(self) -> None:
        a, b, c = await self.meet(3)
        for number in range(300):
            await b.broadcast(b"%d" % number)
        for _ in range(3):
            await b.broadcast(bytes(1024 * 1024))
        await b.flush()
        await c.broadcast(b"from 2")
        self.assertEqual(await a.recv_broadcast(2, timeout=DEADLINE), (2, b"from 2"))
        for number in range(300):
            self.assertEqual(await a.recv_broadcast(1, timeout=DEADLINE), (1, b"%d" % number))
        for _ in range(3):
            self.assertEqual(len((await a.recv_broadcast(1, timeout=DEADLINE))[1]), 1024 * 1024)


class Beginning(Stage):
    async def strangers(self) -> tuple[junto.Session, junto.Session]:
        """Two sessions, of which the first is about to form as soon as somebody waits for it."""
        a = await junto.Session.new(
            parties=2, relay=self.relay.address, profile=self.profile(0), name="test"
        )
        self.addAsyncCleanup(a.abort)
        assert a.link is not None
        b = await junto.Session.join(a.link, profile=self.profile(1))
        self.addAsyncCleanup(b.abort)
        return a, b

    async def test_a_cancelled_begin_may_be_called_again_at_whatever_step(self) -> None:
        a, b = await self.strangers()
        theirs = asyncio.create_task(b.begin(timeout=DEADLINE))
        await a._core.formed(DEADLINE)
        for pause in (0, 0.001, 0.01):
            half = a._core.begin("main")
            await asyncio.sleep(pause)
            half.cancel()
        for steps in range(12):
            beginning = asyncio.create_task(a.begin())
            for _ in range(steps):
                await asyncio.sleep(0)
            if steps > 6:
                await asyncio.sleep(0.003 * (steps - 6))
            if beginning.done():
                await beginning
                break
            beginning.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await beginning
        if not a._begun:
            await a.begin()
        await theirs
        await a.send(b.me, b"hello")
        self.assertEqual(await b.recv(timeout=DEADLINE), (a.me, b"hello"))

    async def test_two_at_once_begin_the_same_run_or_none(self) -> None:
        a, b = await self.strangers()
        theirs = asyncio.create_task(b.begin(timeout=DEADLINE))
        first, second, third = await asyncio.gather(
            a.begin(), a.begin(), a.begin("other"), return_exceptions=True
        )
        self.assertEqual((first, second), (None, None))
        self.assertIsInstance(third, junto.UsageError)
        await theirs
        await b.send(a.me, b"hello")
        self.assertEqual(await a.recv(timeout=DEADLINE), (b.me, b"hello"))

    async def test_who_ends_while_it_begins_is_named(self) -> None:
        a, b = await self.strangers()
        theirs = asyncio.create_task(b.begin(timeout=DEADLINE))
        await a._core.formed(DEADLINE)
        beginning = a._core.begin("main")
        beginning.cancel()
        await asyncio.wait([beginning])
        await a.abort("stopped at once")
        with self.assertRaisesRegex(junto.PartyError, "stopped at once") as caught:
            await theirs
            await b.recv(timeout=DEADLINE)
        self.assertEqual(caught.exception.party, 1 - b.me)
        back = await junto.Session.resume("test", profile=self.profile(0))
        await back.abort()

    async def test_who_fails_before_its_run_has_begun_is_named(self) -> None:
        a, b = await self.strangers()
        theirs = asyncio.create_task(b.begin(timeout=DEADLINE))
        await a._core.formed(DEADLINE)
        a._run = "main"  # As if `begin` had been cancelled between its two halves.
        await a.abort("no more")
        with self.assertRaisesRegex(junto.PartyError, "no more"):
            await theirs
            await b.recv(timeout=DEADLINE)


class Cancelling(Stage):
    async def test_what_a_cancelled_call_waited_for_comes_with_the_next(self) -> None:
        a, b = await self.meet(2)
        count = 300

        async def send() -> None:
            for number in range(count):
                await a.send(1, b"%d" % number)
                if number % 10 == 0:
                    await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        received: list[bytes] = []
        cancelled = 0
        while len(received) < count:
            # Half of them with a time-out, which must not swallow the cancellation.
            waiting = asyncio.create_task(b.recv(0, timeout=DEADLINE if cancelled % 2 else None))
            # From before it waits to after it has something: every step it can be cancelled at.
            for _ in range(cancelled % 7):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                received.append((await waiting)[1])
            except asyncio.CancelledError:
                cancelled += 1
            if cancelled % 20 == 0:
                received.append((await b.recv(0, timeout=DEADLINE))[1])
                cancelled += 1
        await sending
        self.assertEqual(received, [b"%d" % number for number in range(count)])
        self.assertGreater(cancelled, 0)

    async def test_no_cancellation_is_swallowed_by_a_message_that_comes_at_that_moment(self) -> None:
        a, b = await self.meet(2)
        asked = 0
        for number in range(20):
            waiting = asyncio.create_task(b.recv(0, timeout=DEADLINE))
            await asyncio.sleep(0)
            await a.send(1, b"%d" % number)
            while not waiting.done():
                on: Any = getattr(waiting, "_fut_waiter")
                if on is not None and on.done():
                    waiting.cancel()
                    break
                await asyncio.sleep(0)
            if not waiting.done():
                asked += 1
                with self.assertRaises(asyncio.CancelledError):
                    await waiting
                self.assertEqual(await b.recv(0, timeout=DEADLINE), (0, b"%d" % number))
            else:
                self.assertEqual(await waiting, (0, b"%d" % number))
        self.assertGreater(asked, 0)

    async def test_a_time_out_names_the_party_and_loses_nothing(self) -> None:
        a, b, _ = await self.meet(3)
        with self.assertRaises(junto.SilentError) as caught:
            await a.recv(1, timeout=0.05)
        self.assertEqual(caught.exception.party, 1)
        self.assertIsInstance(caught.exception, TimeoutError)
        with self.assertRaises(junto.SilentError) as caught:
            await a.recv_broadcast(timeout=0)
        self.assertEqual(caught.exception.parties, (1, 2))
        await b.send(0, b"late")
        self.assertEqual(await a.recv(1, timeout=DEADLINE), (1, b"late"))

    async def test_who_takes_nothing_holds_up_the_sender(self) -> None:
        a, b = await self.meet(2)
        await b._core.end()  # It vanishes, without a word.
        megabyte = bytes(1024 * 1024 - 4)
        sent = 0
        with self.assertRaises(asyncio.TimeoutError):
            while sent < 100:
                await asyncio.wait_for(a.send(1, sent.to_bytes(4, "big") + megabyte), 10)
                sent += 1
        # 64 MiB, and some on their way.
        self.assertTrue(60 <= sent <= 70, sent)


class Ending(Stage):
    async def test_who_fails_is_named_to_all_others_at_once(self) -> None:
        a, b, c = await self.meet(3)
        waiting = [asyncio.create_task(it) for it in (a.recv(2), c.recv_broadcast())]
        with self.assertRaises(ZeroDivisionError):
            async with b:
                raise ZeroDivisionError("secret")
        for wait in waiting:
            with self.assertRaises(junto.PartyError) as caught:
                await asyncio.wait_for(wait, DEADLINE)
            self.assertEqual(caught.exception.party, 1)
            self.assertIn("ZeroDivisionError", str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))
        # From then on, whatever is tried.
        later = (lambda: a.send(2, b""), lambda: a.broadcast(b""), a.recv, c.flush, c.close)
        for again in later:
            with self.assertRaises(junto.PartyError) as caught:
                await asyncio.wait_for(again(), DEADLINE)
            self.assertEqual(caught.exception.party, 1)

    async def test_all_end_together_and_meet_again(self) -> None:
        a, b = await self.meet(2, "monday")
        await a.send(1, b"never read")
        closing = asyncio.create_task(a.close())
        # What b takes meanwhile comes after what a said before it closed.
        self.assertEqual(await b.recv(timeout=DEADLINE), (0, b"never read"))
        await b.send(0, b"too late")
        await b.flush()
        done, _ = await asyncio.wait([closing], timeout=0.5)
        self.assertFalse(done, "nobody ends alone")
        await asyncio.gather(closing, b.close())
        await a.close()
        for late in (a.recv(), a.send(1, b"")):
            with self.assertRaisesRegex(junto.UsageError, "closed"):
                await late
        numbers = {a.me: a.id, b.me: b.id}
        again = [await junto.Session.resume("test", profile=self.profile(it)) for it in range(2)]
        for session in again:
            self.addAsyncCleanup(session.abort)
        with self.assertRaisesRegex(junto.UsageError, "monday"):
            await again[0].begin("monday")
        await asyncio.gather(*(session.begin("tuesday") for session in again))
        self.assertEqual({session.me: session.id for session in again}, numbers)
        a, b = sorted(again, key=lambda session: session.me)
        await a.send(1, b"today")
        self.assertEqual(await b.recv(timeout=DEADLINE), (0, b"today"))
        await asyncio.gather(a.close(), b.close())

    async def test_a_cancelled_close_may_be_followed_by_another_or_by_abort(self) -> None:
        a, b = await self.meet(2)
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(a.close(), 0.3)
        await b.send(0, b"still there")
        self.assertEqual(await a.recv(timeout=DEADLINE), (1, b"still there"))
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(a.close(), 0.3)
        await a.abort("enough")
        with self.assertRaisesRegex(junto.PartyError, "enough") as caught:
            await b.recv(timeout=DEADLINE)
        self.assertEqual(caught.exception.party, 0)

    async def test_abort_ends_a_close_that_waits_and_frees_the_profile(self) -> None:
        a, b = await self.meet(2)
        closing = asyncio.create_task(a.close())
        done, _ = await asyncio.wait([closing], timeout=0.3)
        self.assertFalse(done)
        await asyncio.wait_for(a.abort("now"), DEADLINE)
        with self.assertRaises(junto.UsageError):
            await asyncio.wait_for(closing, DEADLINE)
        with self.assertRaisesRegex(junto.PartyError, "now"):
            await b.recv(timeout=DEADLINE)
        back = await junto.Session.resume("test", profile=self.profiles[0])
        await back.abort()

    async def test_close_keeps_its_time_and_names_who_takes_nothing(self) -> None:
        a, b, c = await self.meet(3)
        await b._core.end()  # It vanishes, without a word.
        megabyte = bytes(1024 * 1024)
        with self.assertRaises(asyncio.TimeoutError):
            while True:
                await asyncio.wait_for(a.send(1, megabyte), 5)
        with self.assertRaises(junto.SilentError) as caught:
            await asyncio.wait_for(a.close(timeout=1), 60)
        self.assertEqual(caught.exception.parties, (1,))
        with self.assertRaises(junto.PartyError) as told:
            await c.recv(timeout=DEADLINE)
        self.assertIn(0, told.exception.parties)

    async def test_what_was_sent_before_an_abort_arrives_before_it(self) -> None:
        a, b = await self.meet(2)
        for number in range(20):
            await a.send(1, b"%d" % number)
        await a.abort("done with it")
        for number in range(20):
            self.assertEqual(await b.recv(timeout=DEADLINE), (0, b"%d" % number))
        with self.assertRaisesRegex(junto.PartyError, "done with it"):
            await b.recv(timeout=DEADLINE)

    async def test_whatever_the_reason_it_is_told_and_the_profile_opens_again(self) -> None:
        reason = "\u0645\u06cc\u200c\u062e \ufeff\udc80"
        a, b = await self.meet(2)
        await a.abort(reason)
        with self.assertRaisesRegex(junto.PartyError, "\u0645\u06cc \u062e") as caught:
            await b.recv(timeout=DEADLINE)
        self.assertEqual(caught.exception.party, 0)
        await b.abort()
        for profile in self.profiles.values():
            back = await junto.Session.resume("test", profile=profile)
            await back.abort()

    async def test_who_does_not_end_is_named(self) -> None:
        a, b = await self.meet(2)
        with self.assertRaises(junto.SilentError) as caught:
            await a.close(timeout=0.5)
        self.assertEqual(caught.exception.parties, (1,))
        with self.assertRaises(junto.PartyError) as told:
            await b.recv(timeout=DEADLINE)
        self.assertIn(0, told.exception.parties)

    async def test_a_run_whose_program_is_gone_does_not_go_on(self) -> None:
        a, b = await self.meet(2)
        await a._core.end()  # As if its process had died.
        back = await junto.Session.resume("test", profile=self.profiles[0])
        self.addAsyncCleanup(back.abort)
        with self.assertRaisesRegex(junto.UsageError, "main"):
            await back.begin("main")
        with self.assertRaises(junto.PartyError) as caught:
            await b.recv(timeout=DEADLINE)
        self.assertEqual(caught.exception.party, 0)


class Silence(Stage):
    async def test_who_is_gone_without_a_word_is_named_to_all_others(self) -> None:
        a, b, c = await self.meet(3, silence=15)
        waiting = [asyncio.create_task(it) for it in (a.recv(), c.close())]
        await b.flush()
        await b._core.end()  # As if its process had died.
        caught = []
        for wait in waiting:
            with self.assertRaises(junto.PartyError) as told:
                await asyncio.wait_for(wait, DEADLINE)
            self.assertIn(1, told.exception.parties)
            caught.append(told.exception)
        # Whoever finds it first tells the other, and names nobody else.
        first = [error for error in caught if isinstance(error, junto.SilentError)]
        self.assertTrue(first and all(error.parties == (1,) for error in first), caught)

    async def test_who_computes_or_has_said_all_is_not_silent(self) -> None:
        a, b, c = await self.meet(3, silence=15)
        closing = asyncio.create_task(b.close())
        await asyncio.sleep(0.1)
        time.sleep(20)
        await c.send(0, b"still there")
        self.assertEqual(await a.recv(2, timeout=DEADLINE), (2, b"still there"))
        await asyncio.gather(a.close(), closing, c.close())

    async def test_a_close_that_is_given_up_is_no_end(self) -> None:
        a, b = await self.meet(2, silence=15)
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(b.close(), 1)
        await b.send(0, b"still there")
        self.assertEqual(await a.recv(timeout=DEADLINE), (1, b"still there"))
        await b.flush()
        await b._core.end()
        with self.assertRaises(junto.SilentError) as caught:
            await asyncio.wait_for(a.recv(), DEADLINE)
        self.assertEqual(caught.exception.parties, (1,))


def _in_a_fork(profile: Path, answer: Any) -> None:
    async def resume() -> None:
        await junto.Session.resume("test", profile=profile)

    try:
        asyncio.run(resume())
    except junto.UsageError as error:
        answer.send(str(error))


class Forking(Stage):
    async def test_a_forked_process_is_refused_and_does_not_hang(self) -> None:
        a, b = await self.meet(2)
        await asyncio.gather(a.close(), b.close())
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe(duplex=False)
        child = fork.Process(target=_in_a_fork, args=(self.profile(0), theirs))
        child.start()
        theirs.close()
        try:
            self.assertTrue(ours.poll(DEADLINE), "it hangs")
            self.assertIn("forked", ours.recv())
            child.join(DEADLINE)
            self.assertEqual(child.exitcode, 0)
        finally:
            child.kill()
            child.join()


class Relays(Stage):
    async def test_a_relay_that_restarts_is_a_pause(self) -> None:
        a, b = await self.meet(2)
        await a.send(1, b"before")
        self.assertEqual(await b.recv(timeout=DEADLINE), (0, b"before"))
        self.relay.kill()
        await a.send(1, b"meanwhile")
        waiting = asyncio.create_task(b.recv())
        self.assertTrue(self.relay.start())
        self.assertEqual(await asyncio.wait_for(waiting, DEADLINE), (0, b"meanwhile"))
        await asyncio.gather(a.close(), b.close())

    async def test_flush_has_the_time_that_it_is_given(self) -> None:
        a, b = await self.meet(2)
        self.relay.kill()
        await a.send(1, b"meanwhile")
        with self.assertRaises(junto.UnreachableError):
            await a.flush(timeout=0.5)
        flushing = asyncio.create_task(a.flush())
        self.assertTrue(self.relay.start())
        await asyncio.wait_for(flushing, DEADLINE)
        self.assertEqual(await b.recv(timeout=DEADLINE), (0, b"meanwhile"))

    async def test_no_relay_is_told_apart(self) -> None:
        self.relay.kill()
        with self.assertRaises(junto.UnreachableError):
            await junto.Session.new(
                parties=2, relay=self.relay.address, profile=self.profile(0), timeout=1
            )
        # The profile is free again.
        with self.assertRaises(junto.UsageError):
            await junto.Session.resume("test", profile=self.profile(0))


class Misuse(Stage):
    async def test_what_cannot_be_is_refused(self) -> None:
        profile = self.profile(0)
        with self.assertRaisesRegex(junto.UsageError, "relay"):
            await junto.Session.new(parties=2, profile=profile)
        for parties, policy in ((-1, None), (1, None), (65, None), (70_000, None), (2, "trusting")):
            with self.assertRaises(junto.UsageError):
                await junto.Session.new(
                    parties=parties, policy=policy, relay=self.relay.address, profile=profile
                )
        with self.assertRaises(junto.UsageError):
            await junto.Session.new(
                parties=2, relay=self.relay.address, profile=profile, nickname="\udc80"
            )
        for link in ("", "-", "junto:", "\udc80", "x" * 10_000):
            with self.assertRaises(junto.UsageError):
                await junto.Session.join(link, profile=profile)
        host = await junto.Session.new(parties=2, relay=self.relay.address, profile=profile)
        self.addAsyncCleanup(host.abort)
        with self.assertRaisesRegex(junto.RefusedError, "another process"):
            await junto.Session.resume("run", profile=profile)
        for early in (host.send(1, b""), host.recv(), host.flush()):
            with self.assertRaisesRegex(junto.UsageError, "begin"):
                await early
        with self.assertRaisesRegex(junto.UsageError, "begin"):
            _ = host.me
        for timeout in (-1.0, math.nan):
            with self.assertRaises(junto.UsageError):
                await host.begin(timeout=timeout)
        for silence in (-1.0, 14.9, math.nan):
            with self.assertRaisesRegex(junto.UsageError, "15 s"):
                await host.begin(silence=silence)
        for timeout in (1e19, math.inf):
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(host.begin(timeout=timeout), 0.1)
        with self.assertRaises(junto.UnreachableError):
            await host.begin(timeout=0.1)

    async def test_messages_to_nobody_are_refused(self) -> None:
        a, b = await self.meet(2)
        for party in (0, 2, 64, 1000):
            with self.assertRaises(junto.UsageError):
                await a.send(party, b"")
            with self.assertRaises(junto.UsageError):
                await a.recv(party)
        # Nobody is not everybody: what is private stays so.
        for nobody in (None, -1, "1", 10**30):
            with self.assertRaises(junto.UsageError):
                await a.send(nobody, b"secret")  # type: ignore[arg-type]
        no_data: tuple[Any, ...] = ("text", 5, 10**12, [1, 2], None)
        for data in no_data:
            with self.assertRaises(TypeError):
                await a.send(1, data)
            with self.assertRaises(TypeError):
                await a.broadcast(data)
        too_long = bytes(16 * 1024 * 1024 + 1)
        for refused in (a.send(1, too_long), a.broadcast(too_long)):
            with self.assertRaisesRegex(junto.UsageError, "16 MiB"):
                await refused
        # Nothing of all that has gone out, and the run goes on.
        await a.send(1, b"fine")
        self.assertEqual(await b.recv(timeout=DEADLINE), (0, b"fine"))
        with self.assertRaises(junto.SilentError):
            await b.recv_broadcast(timeout=0.2)
        with self.assertRaisesRegex(junto.UsageError, "begun"):
            await a.begin()

    async def test_a_name_that_is_too_long_leaves_nothing_behind(self) -> None:
        a, b = await self.meet(2, "x" * 200)
        await asyncio.gather(a.close(), b.close())
        back = await junto.Session.resume("test", profile=self.profiles[0])
        self.addAsyncCleanup(back.abort)
        for _ in range(2):
            with self.assertRaisesRegex(junto.UsageError, "200 bytes"):
                await back.begin("x" * 250)


class Passphrases(Stage):
    async def test_nobody_is_asked_for_one(self) -> None:
        secret = self.home / "secret"
        secret.write_text("right\n")
        host = await junto.Session.new(
            parties=2, relay=self.relay.address, profile=self.profile(0), passphrase_file=secret, name="test"
        )
        await host.abort()
        with self.assertRaisesRegex(junto.RefusedError, "nobody is asked"):
            await junto.Session.resume("test", profile=self.profile(0))
        back = await junto.Session.resume("test", profile=self.profile(0), passphrase_file=secret)
        await back.abort()


class Errors(unittest.TestCase):
    def test_they_can_be_copied_and_pickled(self) -> None:
        for kind in (junto.PartyError, junto.SilentError):
            error = kind("gone", "wait", parties=(1, 3))
            for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
                self.assertIs(type(same), kind)
                self.assertEqual((str(same), same.help, same.parties), ("gone (wait)", "wait", (1, 3)))

    def test_a_key_that_a_policy_refuses_is_a_refusal(self) -> None:
        self.assertIs(type(errors.of_failure(5, "another key", None, [1])), junto.RefusedError)


if __name__ == "__main__":
    unittest.main()
