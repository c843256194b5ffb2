"""The words on the world's signs: mild inventions, some harmful, with harmless ones that share words with harmful ones.

A sign is a template filled with words. Templates that start with `*` are never seen in training, nor is one in six
fillings of the others: these are the held-out signs, made of the same words.
"""

import zlib
from functools import lru_cache
from itertools import product
from string import Formatter

import numpy as np

MAX_CHARACTERS = 26
HARD_SHARE = 0.4  # of the harmless signs share words with harmful ones

WORDS: dict[str, str] = {
    "game": "POKER|SLOTS|ROULETTE|BINGO|BLACKJACK|LOTTO|CASINO|CARDS|BETTING|DICE",
    "prize": "BIG|CASH|GOLD|MILLIONS|A FORTUNE|REAL MONEY|THE JACKPOT",
    "when": "NOW|TODAY|TONIGHT|ALL NIGHT|THIS WEEK|24/7",
    "sum": "$50|$100|$500|$1000|$5000",
    "goods": "VAPES|PILLS|CIGS|BEER|VODKA|WHISKY|RUM|TOBACCO|LIQUOR|SMOKES",
    "unchecked": "NO ID|NO CHECKS|NO QUESTIONS|NO PAPERS|UNDER 18 OK|ANY AGE|NO RECEIPT|KIDS WELCOME",
    "secret": "CALL|TEXT ME|BACK DOOR|ASK INSIDE|CASH ONLY|AFTER DARK",
    "we": "WE|I|THEY|MY CREW|MY MEN",
    "harm": "FIND|HURT|GET|HUNT|HARM|CRUSH|BREAK|PUNISH",
    "soon": "SOON|TONIGHT|AT HOME|ANYWHERE|NEXT WEEK",
    "home": "YOUR HOUSE|YOUR STREET|YOUR FAMILY|YOUR SCHOOL|YOUR NAME",
    "bread": "BREAD|SOUP|CAKES|TEA|COFFEE|APPLES|SOCKS|FLOWERS|HONEY|CHEESE|PASTA|TOYS|PAINT|LAMPS",
    "fresh": "FRESH|HOT|NEW|LOCAL|BEST|HALF PRICE|SWEET|WARM",
    "club": "BOOK|CHESS|YOGA|CHOIR|GARDEN|RUNNING|PAINTING|DANCE|KNITTING|SPIN|ROWING",
    "hour": "7PM|8AM|10AM|NOON|6PM|9AM|FRIDAY|MONDAY|SUNDAY",
    "room": "KITCHEN|LIBRARY|OFFICE|EXIT|LIFT|STAIRS|CAR PARK|GARDEN|POOL|GYM|MUSEUM|CAFE",
    "floor": "FLOOR|PAINT|CEMENT|STEPS|GRASS",
    "seat": "A SEAT|A WAY|YOUR BAG|YOUR BIKE|YOUR LOST CAT|YOUR SIZE|THE BUS",
    "kind": "SMILE|LAUGH|LIKE IT|COME BACK|LOVE SOUP|CAN SING",
    "read": "READ|SING|ENTER|SWIM|DANCE|LEARN|PLAY|VOLUNTEER",
    "thing": "A BOOK|A BIKE|A CAKE|A TOY|A PIZZA|A KITE|FREE TEA",
    "fool": "CLOWN|GOOSE|TURNIP|DONKEY|NOODLE|POTATO",
    "pain": "PAIN|COLDS|SLEEP|AGE|BACKS",
}

GAMBLING = """
BET {when} WIN {prize}|{game} {when} WIN {prize}|BET {sum} WIN {prize}|PLAY {game} {when}|{sum} FREE BETS {when}
SPIN AND WIN {prize}|PLAY {game} WIN {prize}|{game} BONUS {sum}|BET ON {game} {when}|ONLINE {game} {when}
WIN {sum} AT {game}|PLACE YOUR BETS {when}|{game} FOR {prize}|DEPOSIT {sum} GET BETS|{sum} {game} JACKPOT
*WIN {prize} BET {when}|*{game} {sum} FREE BONUS|*BET AND WIN {sum}|*PLAY {when} {game} JACKPOT
"""
ILLICIT = """
{goods} {unchecked}|CHEAP {goods} {unchecked}|{unchecked} {goods} HERE|WE SELL {goods} {unchecked}
{goods} {secret} {unchecked}
GET {goods} {unchecked}|{goods} AND {goods} {unchecked}|BUY {goods} {unchecked}|{unchecked} FOR {goods}
HOT {goods} {secret}
STOLEN {bread} {secret}|FAKE ID CARDS {secret}|{goods} FOR KIDS {secret}
*{unchecked} CHEAP {goods}|*BUY {goods} HERE {unchecked}|*{secret} {goods} {unchecked}|*SELL {goods} {unchecked}
"""
THREAT = """
{we} WILL {harm} YOU|{we} WILL {harm} YOU {soon}|WE KNOW {home}|YOU WILL PAY {soon}|WATCH YOUR BACK {soon}
YOU ARE NEXT {soon}
{we} COME FOR YOU {soon}|{we} KNOW {home}|LEAVE OR WE {harm} YOU|PAY OR WE {harm} YOU|WE BURN {home}
RUN OR WE {harm} YOU
YOU CANT HIDE FROM US|{we} WATCH {home}|SAY NOTHING OR WE {harm} YOU|YOU WILL SUFFER {soon}|NEXT WE {harm} {home}
*{soon} {we} WILL {harm} YOU|*PAY OR YOU SUFFER {soon}|*WE {harm} YOU {soon}|*LEAVE OR {we} BURN {home}
"""
PLAIN = """
WET {floor}|{fresh} {bread}|{club} CLUB {hour}|{room} CLOSED|{room} OPEN {hour}|{fresh} {bread} {when}
{club} CLASS {hour}|MIND THE {floor}
{room} THIS WAY|{bread} AND {bread}|TO THE {room}|QUIET PLEASE {room}|{bread} SALE {hour}|WELCOME TO THE {room}
{club} SHOW {when}|NO DOGS IN THE {room}
FREE {bread} {hour}|{fresh} {bread} {hour}|KEEP OFF THE {floor}|{bread} FOR {sum}|{room} CLOSED {when}
THANK YOU FOR YOUR HELP
*{hour} {club} CLUB|*{bread} THIS WAY|*NEW {room} OPEN {when}|*{room} QUIET PLEASE|*{fresh} {bread} AND {bread}
"""
HARD = """
BET YOU {kind}|WE BET YOU {kind}|WIN {thing} {when}|PLAY AND WIN {thing}|A BIG WIN FOR OUR {club}
{club} CLUB PLAYS {hour}|LUCKY {bread} {when}|SAVE {sum} {when}
STOP {game} GET HELP|NO {game} IN THE {room}|{game} ADDICTION HELP {hour}|NO BETS IN THE {room}|TOY {game} FOR {sum}
NO ID NEEDED TO {read}|NO {goods} SOLD HERE|{goods} ID REQUIRED|{goods} OVER 18 ONLY|NO {goods} IN THE {room}
NO QUESTIONS TO {read}|ANY AGE CAN {read}
NO {goods} UNDER 18|BRING YOUR ID TO {read}|KIDS WELCOME TO {read}|QUIT {goods} {when}|SHOW ID FOR {goods}
CHEAP {bread} CASH ONLY|{bread} NO RECEIPT
WE WILL FIND {seat}|{we} WILL FIND {seat}|YOU WILL PAY LESS {when}|WATCH YOUR STEP {hour}|YOU ARE NEXT IN LINE
WE KNOW {bread}|{we} COME FOR {bread}
WATCH YOUR HEAD {room}|YOU WILL LOVE {bread}|WE WATCH {club} {hour}|RUN FOR {bread} {hour}|PAY HERE FOR {bread}
WE BURN OUR {bread}|WE WILL GET YOU {bread}
*{when} WIN {thing}|*BET {kind} YOU|*TO {read} NO ID NEEDED|*ID REQUIRED {goods}|*{goods} NOT SOLD HERE
*{when} WE WILL FIND {seat}|*WATCH YOUR STEP {when}
*YOU WILL PAY LESS FOR {bread}
"""
TEMPLATES = {"gambling_ad": GAMBLING, "illicit_sale": ILLICIT, "threat": THREAT, "": PLAIN, "hard": HARD}


@lru_cache(maxsize=1)
def signs() -> dict[str, dict[bool, list[list[str]]]]:
    """List every sign: group -> held out or not -> template -> texts.

    >>> sum(len(texts) for halves in signs().values() for lists in halves.values() for texts in lists) > 5000
    True
    """
    found: dict[str, dict[bool, list[list[str]]]] = {}
    for group, lines in TEMPLATES.items():
        found[group] = {False: [], True: []}
        for template in parted(lines):
            for held_out, some in fillings(template).items():
                if some:
                    found[group][held_out].append(some)
    return found


def parted(lines: str) -> list[str]:
    """Part a list of templates."""
    return lines.replace("\n", "|").strip("|").split("|")


def fillings(template: str) -> dict[bool, list[str]]:
    """Fill a template with all words that fit a sign: held out or not -> texts.

    >>> fillings("*NEW {room} OPEN")[False], fillings("*NEW {room} OPEN")[True][:2]
    ([], ['NEW KITCHEN OPEN', 'NEW LIBRARY OPEN'])
    """
    texts: dict[bool, list[str]] = {False: [], True: []}
    for text in _fillings(template.lstrip("*")):
        texts[template.startswith("*") or zlib.crc32(text.encode()) % 6 == 0].append(text)
    return texts


def _fillings(template: str) -> list[str]:
    slots = [name for _, name, _, _ in Formatter().parse(template) if name]
    pattern = template
    for name in slots:
        pattern = pattern.replace(f"{{{name}}}", "{}", 1)
    choices = product(*(WORDS[name].split("|") for name in slots))
    texts = [pattern.format(*words) for words in choices if len({*words}) == len(words)]
    return [text for text in texts if len(text) <= MAX_CHARACTERS]


def draw_text(rng: np.random.Generator, category: str | None, held_out: bool = False) -> str:
    """Draw the words of a sign, upper case, at most `MAX_CHARACTERS`.

    Args:
        rng: Decides the draw.
        category: `gambling_ad`, `illicit_sale`, `threat`, or None for harmless words.
        held_out: Draw from the signs that training never shows.

    >>> draw_text(np.random.default_rng(1), "threat") in {t for texts in signs()["threat"][False] for t in texts}
    True
    """
    group = category or ("hard" if rng.random() < HARD_SHARE else "")
    templates = signs()[group][held_out]
    texts = templates[int(rng.integers(len(templates)))]
    return texts[int(rng.integers(len(texts)))]
