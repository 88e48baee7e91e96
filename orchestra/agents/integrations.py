"""The chat model integrations that LangChain's `init_chat_model` knows, as plain data.

A test compares this table with the installed LangChain, so that it can be read without importing LangChain.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Integration(NamedTuple):
    """One provider type."""

    module: str
    """The module that holds its chat model."""
    package: str | None
    """What to install; None where it comes with Orchestra."""
    key_variable: str | None = None
    """The environment variable that its client reads the key from, where one alone is usual."""


INTEGRATIONS: Mapping[str, Integration] = MappingProxyType(
    {
        "anthropic": Integration("langchain_anthropic", None, "ANTHROPIC_API_KEY"),
        "anthropic_bedrock": Integration("langchain_aws", "langchain-aws"),
        "azure_ai": Integration("langchain_azure_ai.chat_models", "langchain-azure-ai"),
        "azure_openai": Integration("langchain_openai", None, "AZURE_OPENAI_API_KEY"),
        "baseten": Integration("langchain_baseten", "langchain-baseten", "BASETEN_API_KEY"),
        "bedrock": Integration("langchain_aws", "langchain-aws"),
        "bedrock_converse": Integration("langchain_aws", "langchain-aws"),
        "bedrock_mantle_anthropic": Integration("langchain_aws", "'langchain-aws[anthropic]'"),
        "bedrock_mantle_openai": Integration("langchain_aws", "'langchain-aws[openai]'"),
        "cohere": Integration("langchain_cohere", "langchain-cohere", "COHERE_API_KEY"),
        "deepseek": Integration("langchain_deepseek", "langchain-deepseek", "DEEPSEEK_API_KEY"),
        "fireworks": Integration("langchain_fireworks", "langchain-fireworks", "FIREWORKS_API_KEY"),
        "google_anthropic_vertex": Integration("langchain_google_vertexai.model_garden", "langchain-google-vertexai"),
        "google_genai": Integration("langchain_google_genai", "langchain-google-genai", "GOOGLE_API_KEY"),
        "google_vertexai": Integration("langchain_google_vertexai", "langchain-google-vertexai"),
        "groq": Integration("langchain_groq", "langchain-groq", "GROQ_API_KEY"),
        "huggingface": Integration("langchain_huggingface", "langchain-huggingface"),
        "ibm": Integration("langchain_ibm", "langchain-ibm"),
        "langsmith": Integration("langchain_openai", None),
        "litellm": Integration("langchain_litellm", "langchain-litellm"),
        "llama-cpp": Integration("orchestra_local", "'orchestra-agents[local]'"),
        "meta": Integration("langchain_meta", "langchain-meta"),
        "mistralai": Integration("langchain_mistralai", "langchain-mistralai", "MISTRAL_API_KEY"),
        "nvidia": Integration("langchain_nvidia_ai_endpoints", "langchain-nvidia-ai-endpoints", "NVIDIA_API_KEY"),
        "ollama": Integration("langchain_ollama", "langchain-ollama"),
        "openai": Integration("langchain_openai", None, "OPENAI_API_KEY"),
        "openrouter": Integration("langchain_openrouter", "langchain-openrouter", "OPENROUTER_API_KEY"),
        "perplexity": Integration("langchain_perplexity", "langchain-perplexity", "PPLX_API_KEY"),
        "scripted": Integration("orchestra", None),
        "together": Integration("langchain_together", "langchain-together", "TOGETHER_API_KEY"),
        "upstage": Integration("langchain_upstage", "langchain-upstage", "UPSTAGE_API_KEY"),
        "xai": Integration("langchain_xai", "langchain-xai", "XAI_API_KEY"),
    }
)
"""Provider types by name."""

_AZURE = ("openai.azure.com", "cognitiveservices.azure.com", "services.ai.azure.com")
"""Not azure.com: whoever rents a machine there has a name under it (cloudapp.azure.com)."""

USUAL_DOMAINS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "anthropic": ("anthropic.com",),
        "azure_ai": _AZURE,
        "azure_openai": _AZURE,
        "baseten": ("inference.baseten.co",),
        "cohere": ("cohere.com", "cohere.ai"),
        "deepseek": ("deepseek.com",),
        "fireworks": ("fireworks.ai",),
        "google_anthropic_vertex": ("googleapis.com",),
        "google_genai": ("googleapis.com",),
        "google_vertexai": ("googleapis.com",),
        "groq": ("groq.com",),
        "huggingface": ("huggingface.co",),
        "ibm": ("cloud.ibm.com",),
        "langsmith": ("smith.langchain.com",),
        "mistralai": ("mistral.ai",),
        "nvidia": ("nvidia.com",),
        "openai": ("openai.com",),
        "openrouter": ("openrouter.ai",),
        "perplexity": ("perplexity.ai",),
        "together": ("together.xyz", "together.ai"),
        "upstage": ("upstage.ai",),
        "xai": ("x.ai",),
    }
)
"""The domains to which the usual key of a type may be sent; under none of them strangers have machines."""

ADDRESS_OPTIONS: Mapping[str, str] = MappingProxyType(
    {"azure_ai": "endpoint", "azure_openai": "azure_endpoint", "ibm": "url"}
)
"""What the integration of a type calls the server's address, where that is not `base_url`."""
