"""A service with the types that services have: structs, enums, unions, errors, dates."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec

import gtcp

commands = gtcp.Commands()


class OutOfStock(gtcp.CommandError, code=1001):
    """There are not enough of them."""


class Unknown(gtcp.CommandError, code=1002):
    """There is no such item."""


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Parcel(msgspec.Struct, tag="parcel"):
    """A parcel that a carrier takes."""

    weight_grams: Annotated[int, msgspec.Meta(ge=1, le=30_000)]
    carrier: str = "post"


class Pickup(msgspec.Struct, tag="pickup"):
    shop: str


class Line(msgspec.Struct):
    item: str
    count: Annotated[int, msgspec.Meta(gt=0)] = 1
    size: Size = Size.SMALL


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """An order.

    Attributes:
        lines: at least one.
    """

    customer: UUID
    lines: Annotated[list[Line], msgspec.Meta(min_length=1)]
    delivery: Parcel | Pickup
    note: str | None = None


class Receipt(msgspec.Struct, rename="camel"):
    order_number: int
    total_amount: Decimal
    placed_at: dt.datetime
    per_item: dict[str, Decimal] = {}


class Number(msgspec.Struct):
    number: int


@commands.handler(1, errors=[OutOfStock, Unknown])
def place(request: gtcp.Request[Order]) -> Receipt:
    """Place an order.

    It is paid later.
    """
    raise OutOfStock("there are none")


@commands.handler(2, idempotent=True)
def find(request: gtcp.Request[Number]) -> Receipt | None:
    """Find an order by its number."""


@commands.handler(3, deprecated="use find", idempotent=True)
def find_all(request: gtcp.Request[dict[str, int]]) -> list[Receipt]:
    return []


@commands.handler(5, errors=[Unknown])
def history(request: gtcp.Request[Number]) -> Iterator[Receipt | None]:
    """Stream the versions of an order."""
    for number in range(request.params.number):
        yield Receipt(number, Decimal(number), dt.datetime(2026, 1, 1))
    raise Unknown("there are no more")


@commands.handler(4)
def cancel(request: gtcp.Request[Number]) -> None:
    """Cancel an order."""
