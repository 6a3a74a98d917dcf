// Vercel's AI SDK with its provider for OpenAI-compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embed, generateText, isStepCount, Output, streamText, tool } from "ai";
import { assert, City, embedding, model, question, report, url } from "./smoke.mjs";

const options = { name: "arriero", baseURL: `${url}/v1`, includeUsage: true, supportsStructuredOutputs: true };
const provider = createOpenAICompatible(options);
const ask = { model: provider(model), temperature: 0, maxOutputTokens: 40 };
const weather = tool({ description: "Weather of a city", inputSchema: City, execute: async () => "sunny" });

await report("ai", {
  async answer() {
    const first = await generateText({ ...ask, prompt: question });
    assert(first.text.includes("Paris") && first.finishReason === "stop" && first.usage.outputTokens > 0);
    const asked = { role: "user", content: question };
    const messages = [asked, ...first.response.messages, { role: "user", content: "Are you sure?" }];
    assert((await generateText({ ...ask, system: "You are a helpful assistant.", messages })).text);
  },
  async stream() {
    const result = streamText({ ...ask, prompt: question });
    let text = "";
    for await (const part of result.textStream) text += part;
    assert(text.includes("Paris") && (await result.usage).outputTokens > 0);
  },
  async tool_loop() {
    const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });
    const looped = { ...ask, prompt: question, tools: { weather }, prepareStep, stopWhen: isStepCount(2) };
    const whole = await generateText(looped);
    assert(whole.steps.length === 2 && whole.text);
    const streamed = streamText(looped);
    assert((await streamed.steps).length === 2 && (await streamed.text));
  },
  async structured() {
    const wanted = { ...ask, prompt: question, output: Output.object({ schema: City }) };
    City.parse((await generateText(wanted)).output);
    const streamed = streamText(wanted);
    City.parse(await streamed.output);
  },
  async stop() {
    assert(!(await generateText({ ...ask, prompt: question, stopSequences: ["Paris"] })).text.includes("Paris"));
  },
  async embeddings() {
    const wanted = { model: provider.embeddingModel(embedding), value: "a llama" };
    assert((await embed(wanted)).embedding.length === 384);
  },
  async unknown_model() {
    const error = await generateText({ ...ask, model: provider("unknown"), prompt: question }).catch((error) => error);
    assert(APICallError.isInstance(error) && error.statusCode === 404);
  },
});
