"""LangChain's client of OpenAI on our server, under LangChain's own suite."""

from __future__ import annotations

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.conftest import TOOL_TEMPLATE
from tests.langchain.test_suites import ObedientEngine


@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning")
@pytest.mark.filterwarnings("ignore:PydanticSerializationUnexpectedValue|.*Pydantic serializer warnings:UserWarning")
class TestChatOpenAIOnOurServer(ChatModelIntegrationTests):
    has_tool_calling = has_tool_choice = has_structured_output = supports_json_mode = True

    @pytest.fixture(autouse=True)
    def _served(self, serve, scripted_chat):
        chat = scripted_chat("", template=TOOL_TEMPLATE)
        chat.engine = ObedientEngine()
        self.url = f"{serve(chat=chat).url}/v1"

    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {"model": "tiny", "base_url": self.url, "api_key": "none", "stream_usage": True, "max_retries": 0}
