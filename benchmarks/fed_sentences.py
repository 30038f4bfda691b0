"""Sentences for `benchmarks.fed_encoder`: fifty pairs to score, and any number of others."""

from __future__ import annotations

import numpy as np

# Lines of odd and even number say about the same, so that each has a nearest neighbour.
PAIRS = """\
The cat slept on the warm windowsill all afternoon.
Our kitten dozed by the sunny window for hours.
Heavy rain flooded the streets of the old town.
After the downpour the historic centre was under water.
She paid for the groceries with her phone.
He used a mobile app to settle the supermarket bill.
The train to Geneva leaves at half past seven.
Departures for Geneva are scheduled for 7:30.
Our team lost the final by a single goal.
They were beaten in the last match, three to two.
Please restart the server after the update.
The machine needs a reboot once the patch is installed.
A new bakery opened on the corner last week.
There is a fresh bread shop at the crossroads since Monday.
The doctor told him to drink more water.
His physician advised better hydration.
Prices of houses rose by nine percent this year.
Real estate has become almost a tenth more expensive.
The telescope saw a galaxy that no one knew.
Astronomers discovered an uncharted cluster of stars.
I forgot my umbrella in the taxi.
My rain cover is still in the cab.
The violin needs new strings before the concert.
Replace the strings of the fiddle ahead of the show.
The court rejected the appeal of the company.
Judges turned down the firm's request for a new trial.
Bees visit the lavender every morning.
Each day at dawn insects gather nectar from purple flowers.
The battery lasts about ten hours on one charge.
A full charge keeps the device running for most of a day.
We hiked up to the glacier before sunrise.
In the dark we climbed the mountain towards the ice.
The recipe asks for two spoons of sugar.
You need a little sweetener for this dish.
Her novel was translated into twelve languages.
Readers in many countries can buy the author's book.
The bridge is closed for repairs until May.
Maintenance keeps the crossing shut this spring.
A child drew a red dragon with chalk.
On the pavement was a kid's picture of a fire breathing monster.
The flight was cancelled because of fog.
Bad visibility grounded the plane.
Vote for the candidate that you trust.
At the election choose a politician whom you believe.
The museum shows paintings of the seventeenth century.
Baroque canvases hang in the gallery.
My password does not work any more.
I cannot log in to my account.
The factory makes four thousand shoes a day.
Workers at the plant produce footwear in large numbers.
Snow fell on the desert for the first time in decades.
A rare winter storm turned the dunes white.
He learned to swim at the age of sixty.
As a pensioner he took his first lessons in the pool.
The coffee in this place is far too bitter.
Their espresso tastes harsh.
The bank raised its interest rate again.
Borrowing money has become more costly.
A whale surfaced next to our boat.
While sailing we saw a huge sea mammal come up for air.
The printer is out of paper.
There are no sheets left in the office copier.
They planted thirty oaks along the road.
The avenue got a row of young trees.
The lecture on quantum physics was hard to follow.
Few understood the professor's talk about particles.
Turn left at the church and walk to the river.
Go past the chapel, then head for the water.
The dog barked at the postman.
A hound made noise when the mail was delivered.
The vaccine protects against three diseases.
One injection prevents several illnesses.
Our hotel room looked out on the sea.
From the balcony where we stayed we had a view of the ocean.
The orchestra rehearsed the symphony twice.
Musicians practised the piece two times.
The thief left through the kitchen window.
A burglar escaped from the back of the house.
Electric cars need fewer repairs.
Vehicles with batteries are cheaper to maintain.
The volcano has been quiet for a century.
No eruption was seen there in a hundred years.
She repaired the old clock of her grandfather.
The antique timepiece of the family works again.
The internet was down for the whole morning.
We had no connection until noon.
The farmer sold his apples at the market.
Fruit from the orchard was offered on the square.
This jacket is too small for me.
I need the coat in a larger size.
The play ended with long applause.
The audience clapped for minutes after the theatre show.
Two rivers meet in the middle of the city.
The town lies where the streams join.
The chess master won in nineteen moves.
With a quick checkmate the champion beat her rival.
The soup is cold, could you warm it up?
Please heat my starter again.
He counts the stars when he cannot sleep.
In restless nights he looks at the sky.
"""
SCORED = tuple(PAIRS.splitlines())

_WHO = (
    "the teacher", "my neighbour", "a young engineer", "the old captain", "our manager",
    "the committee", "a tired nurse", "the goalkeeper", "a group of students", "the mayor",
    "her brother", "an angry customer", "the research team", "a travelling actor", "the pilot",
    "nobody in the village",
)  # fmt: skip
_DID = (
    "bought", "lost", "described", "repaired", "complained about", "forgot", "painted", "sold",
    "waited for", "measured", "remembered", "photographed", "asked for", "wrote about", "hid",
    "looked at",
)  # fmt: skip
_WHAT = (
    "a wooden boat", "the annual report", "three bottles of milk", "the broken lamp",
    "a recipe for lentils", "the new tax law", "an unusual insect", "the winter timetable",
    "a song from the fifties", "the software licence", "her passport", "a map of the tunnels",
    "the results of the test", "some second hand furniture", "a letter from Norway",
    "the price of copper",
)  # fmt: skip
_WHEN = (
    "", " yesterday", " before lunch", " in the summer of 1998", " although it was late",
    " on the way to the airport", " without telling anyone", " for the third time",
    " because the shop had closed", " during the storm", " at the library", " in less than an hour",
)  # fmt: skip
_ENDS = (".", ".", ".", "!", "?", ", and then went home.", ", which surprised us all.")


def others(seed: int, count: int) -> list[str]:
    """Return sentences put together at random, none of which scores."""
    rng = np.random.default_rng(seed)
    return [
        "".join(
            (
                f"{rng.choice(_WHO)} {rng.choice(_DID)} {rng.choice(_WHAT)}".capitalize(),
                str(rng.choice(_WHEN)),
                str(rng.choice(_ENDS)),
            )
        )
        for _ in range(count)
    ]
