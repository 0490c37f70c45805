"""Nets written as a function of named layers, and what a product measures, for the tests of watched forwards."""

from collections.abc import Callable

from torch import Tensor, nn

from paretune.inventory import Product, Size


class Lambda(nn.Module):
    """Layers by name and a function of them."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def sizes(product: Product) -> tuple[Size, ...]:
    return product.count, product.rows, product.inner, product.columns


def dims(product: Product) -> tuple[int, ...]:
    return tuple(size.dense for size in sizes(product))
