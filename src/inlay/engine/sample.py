"""Sample text: a first batch that warms a model up, and what int8 is measured on. Several languages and code."""

from __future__ import annotations

PROBE = [
    "The quick brown fox jumps over the lazy dog.",
    "Embeddings turn text into vectors, so that near in meaning becomes near in space.",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "今天天气很好。 Une phrase en français. Ein deutscher Satz.",
]
SAMPLE = [
    *PROBE,
    "What is the capital of Australia?",
    "La révolution industrielle a transformé les villes d'Europe en moins d'un siècle.",
    "Die Katze schläft auf dem warmen Fensterbrett, während draußen der Regen fällt.",
    "El océano Pacífico es el más grande y profundo de la Tierra.",
    "机器学习模型需要大量的数据和计算资源。",
    "東京の春は桜が満開になり、多くの人が公園を訪れます。",
    "Вода закипает при ста градусах Цельсия на уровне моря.",
    "القراءة تفتح أبواب المعرفة لكل إنسان.",
    "SELECT name, COUNT(*) FROM orders WHERE total > 99.5 GROUP BY name ORDER BY 2 DESC;",
    "function debounce(fn, ms) { let t; return (...a) => { clearTimeout(t); t = setTimeout(() => fn(...a), ms); }; }",
    "Invoice no. 2024-00371, due 15 March: 3 × 1,299.00 EUR, VAT 19 %.",
    "ok",
]
