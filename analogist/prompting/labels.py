"""What comes before an answer in plain lines: labels in many languages, numbers and bullets, headings, talk.

Each is a table of patterns; other files use only the compiled ones.
"""

import re
from collections.abc import Iterable


def _any(patterns: Iterable[str]) -> str:
    return "(?:" + "|".join(patterns) + ")"


PRIME = r"(?:\\?['’′`´‘ʹ]|\s?[-_]?prime\b|\^\s*\{?\\prime\}?)"
_TIE = r"(?:[:=|]|→|->|\s[-–—]\s)"  # between a label and its text
_SO = r"(?:so|thus|therefore|hence|then|finally|and|i (?:think|believe|guess)(?: that)?|it seems(?: that)?)"
_LIKELY = r"(?:\s+(?:likely|probably|simply|then|now|also|therefore|most likely))?"
_MAY = r"(?:would|should|will|could|must|might)"

# --- labels -----------------------------------------------------------------------------------------------------------------

_PRAISE = (
    r"(?:(?:final|my|the|best|suggested|proposed|predicted|likely|most likely|possible|recommended|generated|resulting|short)\s+)*"
    r"(?:text\s+)?"
)
_ONE = r"(?:answers?|outputs?|results?|responses?|conclusion|solution|description|suggestion)"
_SEVERAL = r"(?:prompts?|captions?|candidates?|options?)"
ENGLISH = rf"{_PRAISE}(?:{_ONE}|{_SEVERAL})"
# Words for "answer", before a colon or alone as a heading.
ANSWERS = {
    "Chinese": r"(?:最终|最終|最佳|推荐|推薦|文本|文字|图像|圖像|生成|简短|建议)*的?"
    r"(?:答案|答|提示词|提示詞|提示|描述|回答|结果|結果|输出|輸出|标题)(?:是|为|為|如下)?",
    "Japanese": r"(?:最終|テキスト|画像|推奨)*(?:的な|の)?(?:答え|回答|解答|プロンプト|結果|出力|キャプション|結論)は?",
    "Korean": r"(?:최종|텍스트|추천)?\s?(?:정답|답변|답|프롬프트|결과|캡션|출력|결론)(?:은|는)?",
    "German": r"(?:(?:endgültige|finale|kurze|meine|die)\s+)*"
    r"(?:antwort|ergebnis|lösung|(?:bild)?beschreibung|text-?prompt|bildunterschrift|prompt-?vorschlag)",
    "French": r"(?:(?:la|ma)\s+)?(?:réponses?|résultat|description|légende|invite|solution|conclusion)(?:\s+(?:finale|textuelle))?",
    "Spanish": r"(?:(?:la|mi)\s+)?(?:respuestas?|resultado|descripción|leyenda|indicación|solución|conclusión)(?:\s+(?:final|textual))?",
    "Portuguese": r"(?:(?:a|minha)\s+)?(?:respostas?|resultado|descrição|legenda|solução|conclusão)(?:\s+final)?",
    "Italian": r"(?:(?:la|mia)\s+)*(?:rispost[ae]|risultato|descrizione|didascalia|soluzione|conclusione)(?:\s+finale)?",
    "Russian": r"(?:(?:окончательный|итоговый|мой|текстовый)\s+)*(?:ответ|результат|описание|подсказка|промпт|подпись|запрос|вывод)",
    "Arabic": r"(?:الإجابة|الجواب|إجابة|الوصف|النتيجة|المطالبة|الرد|النص)(?:\s+(?:النهائية|النهائي|النصية))?",
    "others": r"antwoord|odpowiedź|cevap|yanıt|उत्तर|(?:câu )?trả lời|đáp án|jawaban|відповідь|svar|vastaus|คำตอบ|răspuns|odpověď",
}
_ANSWER = _any([ENGLISH, *ANSWERS.values()])
_ONE_ANSWER = _any([_PRAISE + _ONE, *ANSWERS.values()])
_OF_B = rf"(?:\s*(?:for|of|to|describing)?\s*(?:the\s+)?(?:(?:missing|output)\s+)?(?:(?:image|picture)\s+)?\(?B\s*{PRIME}\)?)?"

PROMPT_LABEL = re.compile(rf"^[\W_]*{_ANSWER}{_OF_B}\s*#?\d{{0,2}}[\W_]{{0,3}}?\s*(?:{_TIE}|[】\]])\s*(.*)$", re.I)
# Words for one final answer: the lines before it are the reasoning.
FINAL_LABEL = re.compile(rf"^[\W_]*{_ONE_ANSWER}{_OF_B}\s*[\W_]{{0,3}}?\s*{_TIE}[*_\s]*(.*)$", re.I)
# "B': ...", "Prompt for B' - ...", "**B'** = ...", "So the image B' would show ..."
B_LABEL = re.compile(
    rf"^[\W_\d]*(?:{_SO}[,:]?\s+)*"
    r"(?:(?:final|text|the|missing|output|image|picture|prompts?|caption|answer|description|of|for|is)\s+){0,6}(?:图像|圖像|图片|画像|이미지)?"
    rf"\s*\(?B\s*{PRIME}(?:\s+(?:text\s+)?(?:prompts?|captions?|description|answer|image))?"
    r"(?:\s*[的の의]\s*(?:文本提示|提示词|提示|描述|内容|説明|プロンプト|설명|프롬프트))?(?:应该是|應該是|可能是|应为|應為|是|为|為|は|은|는)?"
    rf"[\W_]{{0,4}}?\s*(?:{_TIE}"
    rf"|{_LIKELY}\s(?:(?:is|{_MAY}{_LIKELY} be){_LIKELY}(?:\s+(?:an?|the)\s+(?:image|picture)\s+of)?"
    rf"|{_MAY}{_LIKELY} (?:show|depict|display)|shows|depicts|displays|becomes)\s)\s*(.*)$",
    re.I,
)
# "The answer is a red boat", "The most likely prompt would be a red boat"
ANSWER_IS = re.compile(
    rf"^[\W_]*(?:(?:{_SO}[,:]?|(?:based on|following|given) [^,]*,)\s+)*"
    rf"{ENGLISH}{_OF_B}\s+(?:is|are|{_MAY} be)\s*(?:as follows)?\s*:?\s+(.*)$"
    r"|^(?:die antwort|das ergebnis|der prompt) (?:ist|lautet)\s*:?\s+(.*)$|^(?:la réponse|le résultat|le prompt) est\s*:?\s+(.*)$"
    r"|^(?:la respuesta|el resultado|el prompt|a resposta|o resultado|la risposta|il risultato) (?:es|é|è)\s*:?\s+(.*)$",
    re.I,
)
# A space before a label within a line: a new line begins there.
LABEL_AFTER_A_SENTENCE = re.compile(
    rf"(?:(?<=[.!?])(?<!\d\.)|(?<=, but))\s+(?=[*_]*{_ANSWER}{_OF_B}[*_\s]*(?:[:=]|(?:is|would be|should be|could be)\b))"
    rf"|(?<=[.!?,;])(?<!\d\.)\s*(?=[*_]*(?:(?:so|thus|therefore|hence|then),?\s+)?(?:(?:the\s+)?image\s+)?B\s*{PRIME}[*_\s]*"
    r"(?:[:=]|应该是|是|(?:is|would|should|will|shows|becomes)\b))",
    re.I,
)

# --- numbers and headings ---------------------------------------------------------------------------------------------------

BULLETS = "•◦‣▪▫■□●○►▶➤➔→⇒✓✔✅☑👉🔹🔸⭐★☆⁃∙❖➢"
ITEM = re.compile(
    rf"^\s*(?:[-*·–—+>{BULLETS}]+\ufe0f?\s+|[{BULLETS}]\ufe0f?\s*|\(?\d{{1,2}}\s*[.):\]、](?!\d)\s*|\[\d{{1,2}}\]\s*"
    r"|\d\ufe0f?\u20e3\s*|[\u2460-\u2473]\s*|[一二三四五六七八九十]、\s*|\(?[a-e][.)]\s+)(.*\w.*)$",
    re.I,
)
# "## Answer", "**Final prompt:**", "答案：", "[Answer]", "Here is the prompt"
ANSWER_HEADING = re.compile(
    rf"^[\W_\d]*(?:(?:here (?:is|are)|this is|i suggest)\s+(?:the |my |an? )?)?{_ANSWER}{_OF_B}[\W_]*$", re.I
)
B_HEADING = re.compile(rf"^[\W_]*(?:the\s+)?(?:image\s+|picture\s+)?B\s*{PRIME}[\W_]*$", re.I)
HEADING = re.compile(r"^\s*(?:#{1,6}\s+\S|\*\*[^*]+\*\*:?\s*$|__[^_]+__:?\s*$|\[[^\]]+\]\s*$|【[^】]+】\s*$)")

# --- what is not an answer ------------------------------------------------------------------------------------------------------

_NOTES = _any([
    r"(?:(?:my|the|brief|short|step-by-step|detailed)\s+)*(?:explanations?|reasoning|analysis|notes?|rationale|why|justification|reasons?"
    r"|thoughts?|thinking|thought process|transformation|change|observations?|steps?|step \d+|context|task|question|input|breakdown"
    r"|details?|summary|disclaimer|warning|confidence|negative prompts?|image [ab]|[ab])",
    r"解释|解釋|说明|說明|分析|理由|説明|推理|思考|설명|이유|분석",
    r"erklärung|begründung|hinweis|analyse|explication|raisonnement|explicación|razonamiento|nota|explicação|raciocínio|spiegazione"
    r"|ragionamento|объяснение|пояснение|анализ|التفسير|الشرح|شرح",
])  # fmt: skip
NOTE_LABEL = re.compile(rf"^[\W_\d]*{_NOTES}\s*['′’]?[\W_]{{0,3}}?\s*(?::|=|\s[-–—]\s)\s*(.*)$", re.I)
NOTE_HEADING = re.compile(rf"^(?:#+\s*|\*\*|__|\[|【|\d+[.)]\s*)[\W_\d]*{_NOTES}[\W_]*$", re.I)

_ABOUT = (
    r"(?:images?|pictures?|grid|analog(?:y|ies)|provided|given|examples?|pairs?|transformation|pattern|task|question|instructions?|first"
    r"|relationship|context|logic)"
)
_MUST = r"(?:see that|think|need|have to|will|would|should|must|can see|notice|'ll|am going|believe)"
_INVOLVES = r"(?:is|from|involves|here|between)"
# Beginnings of lines or sentences that talk about the task.
CHATTER = re.compile(
    r"^[\W_]*" + _any([
        r"(?:sure(?: thing)?|certainly|of course|okay|ok|alright|great|absolutely|got it|understood|yes|right|perfect|hello|hi|hey)"
        r"(?=\W*$|\s*[!.,:–—]|\s+-)",
        r"(?:hmm+|wait|well)(?=\W)",
        r"here(?:'s| is| are)\b|below (?:is|are)\b|let me\b|let's\b|let us\b|hope (?:this|that)\b|i hope\b|feel free\b|happy to\b",
        r"thank(?:s| you)(?=\W*$|\s*[!.,]|\s+(?:for|so)\b)|you're welcome\b",
        r"do you want\b|would you like\b|if you (?:need|want|would|have)\b",
        r"(?:looking at|based on|given|considering|observing|comparing|following|according to|from|analy[sz]ing|in)"
        rf" (?:the|this|these|your|both|our)?\s*(?:\w+ )?{_ABOUT}\b",
        r"(?:first|second|next|then|now|so),? (?:i|we|let)\b|(?:first|second|next|then|now|finally|so|therefore|thus|hence), ",
        r"to (?:solve|create|help you|apply|determine|find|complete|answer|figure|identify|work out|understand) ",
        r"step \d+\b|(?:so )?we (?:see|need|have|are|can|must|should|want|know|then)\b",
        rf"(?:so )?i {_MUST}\b|i'(?:d|ll)\b|i(?:'m| am) (?:happy|glad|going|here|ready|programmed|trying|looking|given)\b",
        r"(?:identify|apply|compare|observe|analy[sz]e|determine|find)(?:ing)? (?:(?:the|this|that|it|same) )*"
        r"(?:transformation|change|pattern|difference|analogy|relationship|to B|images?)\b",
        r"the (?:analogy|task|user|pattern|relationship|question|arrows?|grid (?:shows|is|has|contains|consists|states|presents))\b",
        rf"the (?:transformation|change) {_INVOLVES}\b|the (?:first|second|top|bottom|left|right|given|provided|input)"
        r" (?:row|image|picture|pair|cell)s?\b",
        r"this (?:analogy|transformation|is an? analogy|follows|represents|means|suggests|task|prompt|answer|captures)\b",
        r"(?:thought|reasoned|thinking) for \d|(?:please )?note(?: that\b|:)",
        r"as (?:a result|requested|you can see|you requested|asked|shown)\b",
        r"让我们|我们(?:需要|可以|看到)|用户|请注意|好的(?=\W|$)|当然(?=\W|$)|以下是|根据|首先",
        r"まず|はい(?=\W)|もちろん|以下は|네(?=\W)|물론|다음은",
        r"natürlich(?=\W)|gerne(?=\W)|hier (?:ist|sind)\b|voici\b|bien sûr|aquí (?:tienes?|está)|claro(?=\W)|por supuesto|aqui está",
        r"ecco\b|certo(?=\W)|конечно(?=\W)|вот (?:\w+ )?(?:ответ|запрос|промпт|подсказка|описание)|بالطبع|بالتأكيد|إليك",
    ]), re.I,
)  # fmt: skip
# "A is a grey photo", "Image A: ...", "A' shows ...", "A -> A'". Capital letters only, because "a boat: ..." may be a prompt.
DESCRIBES = re.compile(
    r"^[\W_]*(?:(?:in|the|image|picture|(?i:so|now|well|hmm+|okay|here|first|then|but|and|while|since))[,\s]\s*)*"
    rf"(?:A\d?\s*{PRIME}?|B(?!\s*{PRIME}))[\W_]{{0,3}}\s*"
    r"(?::|=|→|->|(?:is|shows|depicts|has|contains|was|becomes)\b(?! for\b)|(?:and|to)\s+(?:A|B)\b)"
)
GRID_LETTER = re.compile(rf"\b[AB]{PRIME}(?!\w)")

# Words before a colon or a quotation that introduce an answer rather than belong to it.
PREAMBLE = re.compile(
    rf"\b(?:prompts?|captions?|answers?|output|response|result|analogy|description|sure|certainly|B\s*{PRIME})"
    rf"|提示[词詞]?|答案|描述|プロンプト|答え|프롬프트|정답|^\W*{_ANSWER}",
    re.I,
)
# Where a prompt ends and an explanation begins.
EXPLAINS = re.compile(
    r"(?<=[\w\"'”」])[.!?]\s+(?=(?:This|That|It|The|In|Here|I|We|As|Since|Because|So|Note|Let|Please|Hope|If|You|Based|Following|Which|There"
    r"|They)\b)"
    r"|[。](?=.)|\s*\(\s*\d+ words?\s*\)|\s*\((?:as|since|because|following|this|which|based|explanation|note|where|assuming)\b.*$"
    r"|\s+[-–—]\s+(?=(?:this|as|since|because|the analogy|following|where)\b)|,?\s+(?:because|since) (?=(?:the|in|A\b|a'|it|this|we)\b)",
    re.I,
)
