import asyncio

from labkit.protocols.base import Tasks


def test_a_task_that_swallows_a_cancellation_is_cancelled_again():
    """As `asyncio.wait_for` does up to Python 3.11 when a result and a cancellation come together."""

    async def scenario():
        tasks, swallowed = Tasks(), 0

        async def stubborn():
            nonlocal swallowed
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed += 1
                    if swallowed == 3:
                        raise

        tasks.start(stubborn())
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await tasks.close()
        assert swallowed == 3
        assert tasks.failure is None

    asyncio.run(scenario())
