"""What signs can be about, and how policies speak of it: a clause names a topic, a saying is of one, and a policy decides what that means.

Of each topic, sayings are templates of `world/texts.py`, of which those with `*` and one filling in six are held out; `verbs` go on
after "words that", `nouns` stand alone. The last of either is held out: training never shows it, but its words.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tilth.starter.world.texts import HARD, PLAIN, TEMPLATES, fillings, parted

OTHER = ""  # signs that no clause speaks of


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One thing that signs are about.

    Args:
        area: Topics of one area are easily taken for each other, so policies speak of them together.
        names: What a category about it may be called.
        verbs: What such words do.
        nouns: What such words are; plural.
        sayings: Templates, with `|` between them.
    """

    area: str
    names: str
    verbs: str
    nouns: str
    sayings: str

    def phrases(self, form: str, held_out: bool) -> list[str]:
        """Return the `verbs` or `nouns` that training shows, or the one that it does not."""
        listed: list[str] = parted(getattr(self, form))
        return listed[-1:] if held_out else listed[:-1]


TOPICS: dict[str, Topic] = {
    "stakes": Topic(
        area="play", names="gambling_ad|gambling|betting", sayings=TEMPLATES["gambling_ad"],
        verbs="invite to gamble for money|call people to bet for cash|offer bets and games for money|invite to bet for cash",
        nouns="bets for money|calls to gamble for cash|games for money|bets and games for cash",
    ),
    "free": Topic(
        area="play", names="free_games|fun|free_play",
        verbs="offer free games without stakes|invite to play for fun|offer games that cost nothing|invite to free games for fun",
        nouns="free games without stakes|games for fun|games that cost nothing|free games that cost nothing",
        sayings="{game} FOR FUN {when}|FREE {game} NO STAKES|{game} JUST FOR FUN|PLAY {game} FOR FREE|{game} NIGHT NO MONEY|LEARN {game} "
        "FOR FUN|PLAY {game} NO STAKES|*NO STAKES {game} {when}|*FREE {game} JUST FOR FUN|*{when} {game} FOR FUN",
    ),
    "raffle": Topic(
        area="play", names="raffle|tombola|charity",
        verbs="sell tickets of a raffle|invite to a raffle for charity|tell of a tombola|invite to a tombola for charity",
        nouns="raffles for charity|raffles and tombolas|tombolas for a good cause|raffles for a good cause",
        sayings="RAFFLE FOR OUR {club}|CHARITY RAFFLE {hour}|{club} CLUB RAFFLE {hour}|RAFFLE {when} GOOD CAUSE|SCHOOL RAFFLE {when}"
        "|TOMBOLA FOR OUR {club}|TOMBOLA {hour}|*CHARITY TOMBOLA {when}|*{hour} {club} RAFFLE|*{club} RAFFLE GOOD CAUSE",
    ),
    "prize": Topic(
        area="play", names="prize_draw|small_prize|contest",
        verbs="promise a small prize|invite to win small things|announce a prize draw|promise small things in a prize draw",
        nouns="prize draws for small things|small prizes|contests with small prizes|contests for small things",
        sayings="WIN {thing} {when}|PLAY AND WIN {thing}|PRIZE DRAW WIN {thing}|GUESS AND WIN {thing}|*{when} WIN {thing}"
        "|*DRAW {when} WIN {thing}",
    ),
    "help": Topic(
        area="play", names="gambling_help|advice|help_line",
        verbs="offer help against gambling|help players to stop|warn of addiction to games|offer help against addiction",
        nouns="offers of help against gambling|help lines for players|warnings of addiction|offers of help for players",
        sayings="STOP {game} GET HELP|{game} ADDICTION HELP {hour}|QUIT {game} CALL US|HELP AGAINST {game} {when}"
        "|*GET HELP QUIT {game}|*{game} HELP LINE {hour}",
    ),
    "toy": Topic(
        area="play", names="toy|board_game|hobby",
        verbs="sell toys and board games|offer toy games|praise board games|sell toy games",
        nouns="toys and board games|offers of toy games|sales of toys|sales of board games",
        sayings="TOY {game} FOR {sum}|TOY {game} SALE {hour}|{game} BOARD GAME {sum}|NEW TOY {game} {when}|*BOARD GAME {game} SALE"
        "|*TOY {game} {when}",
    ),
    "unchecked": Topic(
        area="sale", names="illicit_sale|unchecked_sale|black_market", sayings=TEMPLATES["illicit_sale"],
        verbs="offer restricted goods without the checks that the law asks for|sell restricted goods without checks|offer alcohol, tobacco "
        "or pills without ID|offer restricted goods without ID",
        nouns="sales of restricted goods without checks|restricted goods without ID|sales without the checks of the law|sales of alcohol, "
        "tobacco or pills without checks",
    ),
    "checked": Topic(
        area="sale", names="checked_sale|adult_sale|licensed_sale",
        verbs="offer restricted goods to adults only|ask for ID in a sale|sell goods with a check of age|sell restricted goods with a "
        "check of age",
        nouns="sales that ask for ID|sales to adults only|sales with a check of age|restricted goods with a check of age",
        sayings="{goods} ID REQUIRED|{goods} OVER 18 ONLY|SHOW ID FOR {goods}|NO {goods} UNDER 18|{goods} ADULTS ONLY|WE CHECK ID FOR "
        "{goods}|*ID REQUIRED {goods}|*ADULTS ONLY {goods} {when}|*{goods} SHOW YOUR ID",
    ),
    "banned": Topic(
        area="sale", names="ban|not_sold|house_rule",
        verbs="forbid to sell restricted goods|ban goods from a room|forbid restricted goods|say that goods are banned",
        nouns="bans of goods|notices that ban goods|rooms without restricted goods|bans of restricted goods",
        sayings="NO {goods} SOLD HERE|NO {goods} IN THE {room}|{goods} BANNED IN THE {room}|*{goods} NOT SOLD HERE|*{goods} BANNED HERE",
    ),
    "quit": Topic(
        area="sale", names="quit|health_advice|sober",
        verbs="ask people to quit smoking or drinking|help smokers to quit|advise to give up drinking|help to give up smoking",
        nouns="calls to quit smoking or drinking|advice for smokers|help to give up drinking|advice to quit smoking",
        sayings="QUIT {goods} {when}|GIVE UP {goods} {when}|LIFE WITHOUT {goods}|ADVICE TO QUIT {goods}|*{when} QUIT {goods}"
        "|*GIVE UP {goods} GET ADVICE",
    ),
    "cash": Topic(
        area="sale", names="cash_sale|no_receipt|cheap_goods",
        verbs="sell everyday goods for cash|sell food without a receipt|ask to pay in cash|sell everyday goods without a receipt",
        nouns="everyday goods for cash|sales without a receipt|cheap food for cash|everyday goods without a receipt",
        sayings="CHEAP {bread} CASH ONLY|{bread} NO RECEIPT|{bread} CASH ONLY {when}|PAY CASH FOR {bread}|*CASH ONLY {bread}"
        "|*NO RECEIPT {bread} {when}",
    ),
    "ticket": Topic(
        area="sale", names="ticket_resale|spare_ticket|tickets",
        verbs="resell tickets|offer spare tickets|buy or sell used tickets|sell spare tickets",
        nouns="resold tickets|offers of spare tickets|sales of used tickets|sales of spare tickets",
        sayings="SPARE TICKETS {sum}|TICKETS FOR {club} {sum}|SELL YOUR TICKET {when}|RESALE TICKETS {hour}|BUY TICKETS {when} {sum}"
        "|*{sum} SPARE TICKETS|*SPARE TICKETS {club} SHOW",
    ),
    "loan": Topic(
        area="money", names="quick_loan|loan|lender",
        verbs="offer quick loans|invite to borrow money|lend money|offer to lend money",
        nouns="quick loans|offers to borrow money|loans of cash|offers of quick loans",
        sayings="QUICK LOAN {sum}|BORROW {sum} {when}|LOANS {when} CALL US|CASH LOAN {sum}|BORROW MONEY HERE {when}|*LOAN {sum} {when}"
        "|*BORROW CASH {when}",
    ),
    "easy": Topic(
        area="money", names="easy_money|get_rich|scam",
        verbs="promise easy money|say that everybody gets rich|offer to earn money at home|promise that everybody gets rich at home",
        nouns="promises of easy money|offers to earn money at home|promises to get rich|offers of easy money",
        sayings="EARN {sum} AT HOME|EASY MONEY {when}|EARN {sum} EVERY DAY|GET RICH {when}|MAKE {sum} FROM HOME|*EARN EASY MONEY {when}"
        "|*GET RICH AT HOME {when}",
    ),
    "cure": Topic(
        area="money", names="miracle_cure|diet|quack",
        verbs="promise a cure|praise a miracle diet|sell magic herbs|promise a miracle cure",
        nouns="promises of a cure|miracle diets|magic herbs and cures|miracle cures",
        sayings="MIRACLE CURE {sum}|LOSE WEIGHT {when}|HERBS CURE {pain} {when}|CURE YOUR {pain} {when}|MAGIC DIET {sum}"
        "|*MIRACLE DIET {when}|*MAGIC HERBS CURE {pain}",
    ),
    "threat": Topic(
        area="people", names="threat|menace|harm", sayings=TEMPLATES["threat"],
        verbs="threaten somebody|threaten people with harm|announce harm to somebody|threaten somebody with harm",
        nouns="threats|threats against people|announcements of harm|threats of harm",
    ),
    "taunt": Topic(
        area="people", names="taunt|sports_taunt|team_joke",
        verbs="taunt another team|joke about a team|boast before a match|taunt a team before a match",
        nouns="taunts between teams|jokes of sports teams|boasts before a match|taunts of sports teams",
        sayings="OUR TEAM WILL CRUSH YOU|WE BEAT YOU AT {club}|OUR {club} TEAM WILL WIN|YOUR TEAM WILL LOSE {when}|WE CRUSH YOUR TEAM "
        "{hour}|{club} TEAM BEATS YOURS|*{club} TEAM CRUSHES YOURS|*YOUR TEAM LOSES {hour}|*OUR TEAM BEATS YOU {when}",
    ),
    "warning": Topic(
        area="people", names="warning|danger|safety_notice",
        verbs="warn of a danger|ask people to take care|tell of a danger in the house|warn people of a danger",
        nouns="warnings of a danger|safety notices|requests to take care|safety warnings",
        sayings="WATCH YOUR STEP {hour}|WATCH YOUR HEAD {room}|MIND THE {floor}|WET {floor}|DANGER {floor}|CAUTION HOT {bread}|BEWARE OF "
        "THE {floor}|*WATCH YOUR STEP {when}|*CAUTION WET {floor}|*DANGER IN THE {room}",
    ),
    "insult": Topic(
        area="people", names="insult|rude|mockery",
        verbs="insult somebody|call people names|mock people|mock somebody with names",
        nouns="mild insults|names that mock people|rude words|rude names for people",
        sayings="YOU ARE A {fool}|ONLY A {fool} PARKS HERE|HEY {fool} GO HOME|{fool} OF THE WEEK|YOU LOOK LIKE A {fool}|*GO HOME {fool}"
        "|*HEY {fool} {when}",
    ),
    "vote": Topic(
        area="public", names="campaign|vote|politics",
        verbs="ask for votes|call to vote|tell of an election|call for votes in an election",
        nouns="calls to vote|campaigns before an election|requests for votes|campaigns for votes",
        sayings="VOTE FOR OUR {club}|VOTE {hour}|ELECT OUR {club} CLUB|ELECTION {hour}|YOUR VOTE {when}|*ELECTION {when} {hour}"
        "|*VOTE {when} {hour}",
    ),
    "club": Topic(
        area="public", names="club_notice|classes|events",
        verbs="invite to a club or a class|announce classes and shows|tell when a club meets|announce a club or a show",
        nouns="notices of clubs and classes|invitations to a class|announcements of shows|announcements of clubs",
        sayings="{club} CLUB {hour}|{club} CLASS {hour}|{club} SHOW {when}|{club} CLUB PLAYS {hour}|*{hour} {club} CLUB",
    ),
    "shop": Topic(
        area="public", names="shop_offer|food_ad|advert",
        verbs="praise food|advertise fresh food and goods|tell of a sale in a shop|advertise food in a shop",
        nouns="offers of fresh food|adverts of a shop|ordinary sales of food|adverts of fresh food",
        sayings="{fresh} {bread}|{fresh} {bread} {when}|{bread} AND {bread}|{bread} SALE {hour}|FREE {bread} {hour}|{fresh} {bread} {hour}"
        "|{bread} FOR {sum}|LUCKY {bread} {when}|*{fresh} {bread} AND {bread}",
    ),
    "room": Topic(
        area="public", names="room_notice|opening_hours|directions",
        verbs="tell where a room is|say when a room is open|show the way to a room|say where a room is",
        nouns="notices about rooms|opening hours|signs that show the way|notices of opening hours",
        sayings="{room} CLOSED|{room} OPEN {hour}|{room} THIS WAY|TO THE {room}|WELCOME TO THE {room}|{room} CLOSED {when}"
        "|*NEW {room} OPEN {when}|*{room} QUIET PLEASE",
    ),
    "search": Topic(
        area="people", names="found|lost_things|helpful",
        verbs="promise to find something|help to find lost things|offer to find something|promise to find lost things",
        nouns="promises to find something|offers to find lost things|help to find things|offers to find something",
        sayings="WE WILL FIND {seat}|{we} WILL FIND {seat}|*{when} WE WILL FIND {seat}",
    ),
}  # fmt: skip
AREAS = {
    area: [name for name, one in TOPICS.items() if one.area == area] for area in {t.area: 0 for t in TOPICS.values()}
}


@lru_cache(maxsize=1)
def sayings() -> dict[str, dict[bool, list[list[str]]]]:
    """List the signs of each topic, and of none: topic -> held out or not -> template -> texts."""
    taken = {template for topic in TOPICS.values() for template in parted(topic.sayings)}
    rest = [template for template in (*parted(PLAIN), *parted(HARD)) if template not in taken]
    found: dict[str, dict[bool, list[list[str]]]] = {}
    for name, templates in {**{n: parted(t.sayings) for n, t in TOPICS.items()}, OTHER: rest}.items():
        halves = [fillings(template) for template in templates]
        found[name] = {held_out: [half[held_out] for half in halves if half[held_out]] for held_out in (False, True)}
    return found


def say(topic: str, rng: np.random.Generator, *, held_out: bool = False) -> str:
    """Draw a saying, upper case.

    Args:
        topic: One of `TOPICS`, or `OTHER`.
        rng: Decides the draw.
        held_out: Draw from those that training never shows.
    """
    templates = sayings()[topic][held_out]
    texts = templates[int(rng.integers(len(templates)))]
    return texts[int(rng.integers(len(texts)))]
